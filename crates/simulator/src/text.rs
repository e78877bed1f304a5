//! What people write: a vocabulary of our own in several languages, with what is hard for a parser mixed in.

use crate::random::Random;

const ENGLISH: [&str; 34] = [
    "hello", "everyone", "nice", "stream", "again", "what", "a", "game", "lol", "haha", "the", "song", "please",
    "more", "from", "tonight", "first", "time", "here", "love", "this", "who", "won", "draw", "wait", "really", "good",
    "luck", "see", "you", "tomorrow", "wow", "that", "was",
];
const CHINESE: [&str; 26] = [
    "大家好",
    "主播",
    "晚上好",
    "加油",
    "好听",
    "哈哈",
    "来了",
    "第一次",
    "唱得",
    "真好",
    "再来",
    "一首",
    "抽奖",
    "什么时候",
    "开始",
    "谢谢",
    "老板",
    "厉害",
    "太",
    "可爱",
    "了",
    "关注",
    "明天",
    "见",
    "支持",
    "冲",
];
const JAPANESE: [&str; 10] =
    ["こんばんは", "かわいい", "すごい", "おつかれ", "ありがとう", "初見", "です", "がんばって", "また", "明日"];
const KOREAN: [&str; 8] = ["안녕하세요", "최고", "노래", "좋아요", "감사합니다", "대박", "또", "봐요"];
const SPANISH: [&str; 10] = ["hola", "buenas", "noches", "qué", "bueno", "más", "música", "señor", "¡vamos!", "jajaja"];
const ARABIC: [&str; 5] = ["مرحبا", "جميل", "شكرا", "ممتاز", "أهلا"];
/// Emoji of one code point, with a skin tone, joined families, flags and a keycap.
const EMOJI: [&str; 12] = ["🎉", "😂", "❤️", "👍🏽", "👨‍👩‍👧‍👦", "🇨🇳", "1️⃣", "🔥", "🚀", "🌹", "😭😭😭", "🎁"];
/// Texts that have broken parsers elsewhere.
const AWKWARD: [&str; 10] = [
    "\"quoted\" and \\back\\slashed\\",
    "two\nlines\tand a tab",
    "null",
    "{\"type\":\"gift\",\"count\":99}",
    " ",
    "\u{200b}\u{feff}invisible",
    "e\u{301}\u{301}\u{301} combining",
    "\u{202e}backwards",
    "<b>&amp;</b> %00 ' OR 1=1",
    "\u{1}\u{8}\u{c} control",
];
/// What people write to enter a lottery.
const KEYWORDS: [&str; 3] = ["抽奖", "!draw", "我要上车"];

/// A chat message.
pub(crate) fn chat(random: &mut Random) -> String {
    match random.below(1_000) {
        0..=4 => random.pick(&AWKWARD).to_owned(),
        5..=44 => random.pick(&KEYWORDS).to_owned(),
        45..=119 => {
            let times = 1 + random.index(6);
            random.pick(&EMOJI).repeat(times)
        }
        120..=124 => words(random, &CHINESE, "", 300),
        125..=499 => words(random, &CHINESE, "", 6),
        500..=569 => words(random, &JAPANESE, "", 4),
        570..=609 => words(random, &KOREAN, " ", 4),
        610..=679 => words(random, &SPANISH, " ", 5),
        680..=699 => words(random, &ARABIC, " ", 4),
        _ => words(random, &ENGLISH, " ", 9),
    }
}

/// One to `most` words of a language; a fifth of the texts ends with an emoji.
fn words(random: &mut Random, language: &[&str], between: &str, most: usize) -> String {
    let count = 1 + random.index(most);
    let mut text = String::with_capacity(count * 8);
    for position in 0..count {
        if position > 0 {
            text.push_str(between);
        }
        text.push_str(random.pick(language));
    }
    if random.permille(200) {
        text.push_str(random.pick(&EMOJI));
    }
    text
}

/// What the app announces in a room.
pub(crate) fn notice(random: &mut Random) -> String {
    const NOTICES: [&str; 5] = [
        "Welcome! Please be kind to each other.",
        "欢迎来到直播间，请文明发言",
        "The draw is at the end of the show 🎁",
        "主播PK还有三分钟",
        "新来的朋友点个关注",
    ];
    random.pick(&NOTICES).to_owned()
}

/// The name of a show.
pub(crate) fn show_name(random: &mut Random) -> String {
    const FIRST: [&str; 6] = ["Late night", "晚安", "Morning", "周末", "Open mic", "Study with me:"];
    const SECOND: [&str; 6] = ["show", "音乐会", "games", "聊天室", "\"live\"", "& friends"];
    format!("{} {}", random.pick(&FIRST), random.pick(&SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_never_empty_and_fit_a_message() {
        let mut random = Random::new(3);
        for _ in 0..20_000 {
            let text = chat(&mut random);
            assert!(!text.is_empty() && text.len() < 12_000, "{text:?}");
        }
    }
}
