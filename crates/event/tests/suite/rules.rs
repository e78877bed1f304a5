//! Rule sets: their file form, what is refused, how custom elements are read, and the verdicts.

use barrage_event::rules::{
    Before, Compiled, Custom, DEFAULT_TOML, Matching, Mute, RoomUser, RuleSet, RulesError, WordAction, Words, limits,
};
use barrage_event::{MessageKind, Outcome};
use proptest::prelude::{Strategy, any, prop_assert_eq, proptest};

use crate::common::decode;

fn compiled(toml: &str) -> Compiled {
    let rules = RuleSet::from_toml(toml).unwrap_or_else(|error| panic!("{error}"));
    Compiled::new(&rules, 5).unwrap_or_else(|errors| panic!("{errors:?}"))
}

#[test]
fn the_shipped_file_is_the_default_and_names_every_field() {
    assert_eq!(RuleSet::from_toml(DEFAULT_TOML).unwrap(), RuleSet::default());
    assert_eq!(RuleSet::from_toml("").unwrap(), RuleSet::default());
    let written = RuleSet::default().to_toml();
    for key in written.lines().filter_map(|line| line.split_once(" = ").map(|(key, _)| key)) {
        let documented =
            DEFAULT_TOML.lines().any(|line| line.starts_with(&format!("{key} = ")) && line.contains(" # "));
        assert!(documented || key == "words", "`{key}` has no comment in the shipped file");
    }
    assert_eq!(Compiled::shipped().rules(), &RuleSet::default());
    assert_eq!((Compiled::shipped().version(), compiled("").version()), (0, 5));
}

#[test]
fn an_unreadable_file_names_line_and_field() {
    for (toml, line, field) in [
        ("[windows]\njoin_ms = 5000\njoin_sm = 1\n", 3, "windows.join_sm"),
        ("[windows]\n\njoin_ms = \"5 s\"\n", 3, "windows.join_ms"),
        ("[windows]\njoin_ms = -1\n", 2, "windows.join_ms"),
        ("[unknown]\na = 1\n", 1, "unknown"),
        (
            "[[before.words]]\nwords = [\"a\"]\n[[before.words]]\nwords = [\"a\"]\nmatch = \"all\"\n",
            5,
            "before.words.match",
        ),
        ("[custom]\ntype = \n", 2, "custom.type"),
    ] {
        let error = RuleSet::from_toml(toml).unwrap_err();
        let RulesError::Unreadable { line: l, field: f, problem } = &error else { panic!("{error}") };
        assert_eq!((*l, f.as_str()), (line, field), "{error}");
        assert!(!problem.is_empty() && error.to_string().starts_with(&format!("line {line}: ")), "{error}");
    }
    let long = "#".repeat(limits::TOML_BYTES_MAX + 1);
    assert_eq!(RuleSet::from_toml(&long), Err(RulesError::TooLong { bytes: long.len() }));
}

#[test]
fn a_value_out_of_range_names_its_field() {
    let words = |toml: &str| format!("[[before.words]]\nwords = [\"a\"]\n[[before.words]]\n{toml}\n");
    let table = [
        ("[windows]\njoin_ms = 0".to_owned(), "windows.join_ms"),
        ("[windows]\njoin_ms = 700_000".to_owned(), "windows.join_ms"),
        ("[windows]\njoin_late_ms = 100_000_000\njoin_ms = 1000".to_owned(), "windows.join_late_ms"),
        ("[windows]\nduplicates_keep_ms = 86_400_001".to_owned(), "windows.duplicates_keep_ms"),
        ("[windows]\nduplicates_lookup_ms = 3_600_001".to_owned(), "windows.duplicates_lookup_ms"),
        ("[windows]\nbusiness_keep_ms = 1".to_owned(), "windows.business_keep_ms"),
        ("[windows]\nlateness_ms = 86_400_001".to_owned(), "windows.lateness_ms"),
        ("[retention]\nminutes_ms = 1".to_owned(), "retention.minutes_ms"),
        ("[retention]\nhours_ms = 1".to_owned(), "retention.hours_ms"),
        ("[custom]\ntype = \"\"".to_owned(), "custom.type"),
        ("[custom]\ncount = \"a..b\"".to_owned(), "custom.count"),
        (format!("[custom]\nvalue = \"{}\"", "a.".repeat(20) + "a"), "custom.value"),
        ("[custom]\ngift = [\"x\", \"like\"]".to_owned(), "custom.like[0]"),
        ("[custom]\nnotice = [\"\"]".to_owned(), "custom.notice[0]"),
        ("[before.mute]\nrooms = [\"r\", \"\"]".to_owned(), "before.mute.rooms[1]"),
        (format!("[before.mute]\nusers = [\"{}\"]", "x".repeat(129)), "before.mute.users[0]"),
        ("[before.mute]\nroom_users = [{ room = \"r\", user = \"\" }]".to_owned(), "before.mute.room_users[0].user"),
        ("[before.mute]\ncode = 2".to_owned(), "before.mute.code"),
        (format!("[before.mute]\nmessage = \"{}\"", "x".repeat(1025)), "before.mute.message"),
        (words("words = []"), "before.words[1].words"),
        (words("words = [\"a\", \" \"]"), "before.words[1].words[1]"),
        (words(&format!("words = [\"{}\"]", "x".repeat(257))), "before.words[1].words[0]"),
        (words("words = [\"a\"]\ncode = 10099"), "before.words[1].code"),
        (words("words = [\"a\"]\ncode = 10201"), "before.words[1].code"),
        (words("words = [\"a\"]\ncode = 0"), "before.words[1].code"),
        (words("words = [\"a\"]\naction = \"drop\"\ncode = 10100"), "before.words[1].code"),
    ];
    for (toml, field) in table {
        let rules = RuleSet::from_toml(&toml).unwrap_or_else(|error| panic!("{error}: {toml}"));
        let errors = rules.validate().unwrap_err();
        assert_eq!(errors.iter().map(|e| e.field.as_str()).collect::<Vec<_>>(), [field], "{toml}");
        assert_eq!(Compiled::new(&rules, 1).unwrap_err(), errors);
    }
    for toml in [
        words("words = [\"a\"]\ncode = 10100"),
        words("words = [\"a\"]\ncode = 10200"),
        words("words = [\"a\"]\ncode = 1"),
    ] {
        compiled(&toml);
    }
    // Everything wrong at once is told, but not without end.
    let many = RuleSet {
        before: Before { mute: Mute { rooms: vec![String::new(); 1000], ..Mute::default() }, ..Before::default() },
        ..RuleSet::default()
    };
    assert_eq!(many.validate().unwrap_err().len(), 100);
    let too_many = RuleSet {
        before: Before {
            mute: Mute { users: vec!["u".into(); limits::MUTES_MAX + 1], ..Mute::default() },
            ..Before::default()
        },
        ..RuleSet::default()
    };
    assert_eq!(too_many.validate().unwrap_err()[0].field, "before.mute.users");
}

#[test]
fn custom_elements_are_read_by_the_shipped_paths() {
    let rules = Compiled::shipped();
    let one = Custom { count: 1, ..Custom::default() };
    let table = [
        (r#"{"type":"like","count":12}"#, MessageKind::Like, Some(Custom { count: 12, ..Custom::default() })),
        (r#"{"type":"like"}"#, MessageKind::Like, Some(one.clone())),
        (r#"{"count":"7","type":"like"}"#, MessageKind::Like, Some(Custom { count: 7, ..Custom::default() })),
        (r#"{"type":"like","count":-4}"#, MessageKind::Like, Some(Custom::default())),
        (
            r#"{"type":"like","count":1e30}"#,
            MessageKind::Like,
            Some(Custom { count: 1_000_000_000, ..Custom::default() }),
        ),
        (
            r#"{"type":"like","count":18446744073709551615}"#,
            MessageKind::Like,
            Some(Custom { count: 1_000_000_000, ..Custom::default() }),
        ),
        (r#"{"type":"like","count":2.5}"#, MessageKind::Like, Some(one.clone())),
        (r#"{"type":"like","count":3.0}"#, MessageKind::Like, Some(Custom { count: 3, ..Custom::default() })),
        (r#"{"type":"like","count":[5]}"#, MessageKind::Like, Some(one.clone())),
        (r#"{"type":"like","count":null}"#, MessageKind::Like, Some(one.clone())),
        (
            r#"{"type":"gift","gift_id":"yacht","count":99,"value":990,"combo_id":8,"order_id":"o\n1","x":{"value":1}}"#,
            MessageKind::Gift,
            Some(Custom {
                count: 99,
                value: 990,
                gift_id: "yacht".into(),
                combo_id: "8".into(),
                order_id: "o\n1".into(),
                ..Custom::default()
            }),
        ),
        (
            r#"{"type":"gift","value":9e18}"#,
            MessageKind::Gift,
            Some(Custom { value: 1_000_000_000_000_000, ..one.clone() }),
        ),
        (
            r#"{"type":"membership","tier":"gold","months":12}"#,
            MessageKind::Membership,
            Some(Custom { tier: "gold".into(), months: 12, ..one.clone() }),
        ),
        (
            r#"{"type":"membership","months":99999999999}"#,
            MessageKind::Membership,
            Some(Custom { months: 1_200, ..one }),
        ),
        (r#"{"type":"notice","text":"hi"}"#, MessageKind::Notice, None),
        (r#"{"type":"level"}"#, MessageKind::Custom, None),
        (r#"{"type":["gift"]}"#, MessageKind::Custom, None),
        (r#"{"x":{"type":"gift"}}"#, MessageKind::Custom, None),
        (r#"{"type":"gift""#, MessageKind::Custom, None),
        (r#"{"type":"gift"} {}"#, MessageKind::Custom, None),
        (r#"["gift"]"#, MessageKind::Custom, None),
        ("\"gift\"", MessageKind::Custom, None),
        ("gift", MessageKind::Custom, None),
        ("", MessageKind::Custom, None),
    ];
    for (data, kind, custom) in table {
        let classified = rules.classify(data);
        assert_eq!((classified.kind, classified.custom), (kind, custom), "{data}");
    }
    let deep = format!("{{\"type\":\"gift\",\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(matches!(rules.classify(&deep).kind, MessageKind::Gift | MessageKind::Custom), "and no overflow");
}

#[test]
fn custom_elements_are_read_by_paths_of_ones_own() {
    let rules = compiled(
        "[custom]\ntype = \"cmd.0.name\"\ngift = [\"3\", \"present\"]\nlike = [\"heart\"]\ncount = \"cmd.0.n\"\n\
         value = \"cmd.0.n\"\ngift_id = \"cmd.1.id\"\norder_id = \"\"\n",
    );
    let gift = Custom { count: 4, value: 4, gift_id: "g".into(), ..Custom::default() };
    for (data, kind, custom) in [
        (r#"{"cmd":[{"name":3,"n":4},{"id":"g"},{"id":"h"}],"order_id":"o"}"#, MessageKind::Gift, Some(gift.clone())),
        (r#"{"x":[0],"cmd":[{"n":"4","name":"present"},{"id":"g"}]}"#, MessageKind::Gift, Some(gift)),
        (r#"{"cmd":{"0":{"name":"heart"}}}"#, MessageKind::Like, Some(Custom { count: 1, ..Custom::default() })),
        (r#"{"cmd":[{"name":"gift"}]}"#, MessageKind::Custom, None),
        (r#"{"cmd":[]}"#, MessageKind::Custom, None),
    ] {
        let classified = rules.classify(data);
        assert_eq!((classified.kind, classified.custom), (kind, custom), "{data}");
    }
}

fn before(room: &str, user: &str, text: &str) -> String {
    serde_json::json!({
        "CallbackCommand": "Group.CallbackBeforeSendMsg", "GroupId": room, "From_Account": user,
        "MsgBody": [{"MsgType": "TIMTextElem", "MsgContent": {"Text": text}}],
    })
    .to_string()
}

#[test]
fn mutes_and_words_decide_in_order() {
    let rules = compiled(
        r#"
        [before.mute]
        rooms = ["quiet"]
        users = ["troll"]
        room_users = [{ room = "r", user = "half" }]
        code = 10110
        message = "muted"

        [[before.words]]
        words = ["Spam", "加微信"]
        code = 10101
        message = "no ads"

        [[before.words]]
        words = ["ass", "草"]
        match = "whole"
        action = "drop"

        [[before.words]]
        words = ["assassin"]
        "#,
    );
    let allowed = (Outcome::Allowed, 0, "", "");
    let table = [
        ("quiet", "a", "hi", (Outcome::Rejected, 10_110, "before.mute.rooms", "muted")),
        ("r", "troll", "hi", (Outcome::Rejected, 10_110, "before.mute.users", "muted")),
        ("r", "half", "hi", (Outcome::Rejected, 10_110, "before.mute.room_users", "muted")),
        ("s", "half", "hi", allowed),
        ("r", "a", "", allowed),
        ("r", "a", "buy SPAMmy things", (Outcome::Rejected, 10_101, "before.words[0]", "no ads")),
        ("r", "a", "快加微信吧", (Outcome::Rejected, 10_101, "before.words[0]", "no ads")),
        ("r", "a", "you Ass!", (Outcome::Dropped, 2, "before.words[1]", "")),
        ("r", "a", "a classy assessment", allowed),
        ("r", "a", "ass2", allowed),
        ("r", "a", "草", (Outcome::Dropped, 2, "before.words[1]", "")),
        ("r", "a", "好，草！", (Outcome::Dropped, 2, "before.words[1]", "")),
        ("r", "a", "草原", allowed),
        ("r", "a", "assassin", (Outcome::Rejected, 1, "before.words[2]", "")),
        ("r", "a", "assassin spam", (Outcome::Rejected, 10_101, "before.words[0]", "no ads")),
        ("r", "a", "assassin ass", (Outcome::Dropped, 2, "before.words[1]", "")),
    ];
    for (room, user, text, (outcome, code, rule, message)) in table {
        let body = before(room, user, text);
        let verdict = rules.verdict(&decode(&body)).expect("a before-callback");
        assert_eq!(
            (verdict.outcome, verdict.code, verdict.rule.as_str(), verdict.message.as_str()),
            (outcome, code, rule, message),
            "{user} says {text:?} in {room}"
        );
    }
}

#[test]
fn only_before_callbacks_get_a_verdict_and_only_messages_can_be_refused() {
    let rules = compiled("[before.mute]\nrooms = [\"r\"]\nusers = [\"a\"]\n");
    let with = |command: &str| {
        format!(
            r#"{{"CallbackCommand":"{command}","GroupId":"r","From_Account":"a","Requestor_Account":"a","Owner_Account":"a"}}"#
        )
    };
    let verdict = |command: &str| rules.verdict(&decode(&with(command))).map(|v| v.outcome);
    assert_eq!(verdict("Group.CallbackBeforeSendMsg"), Some(Outcome::Rejected));
    assert_eq!(verdict("Group.CallbackAfterSendMsg"), None);
    assert_eq!(verdict("Group.CallbackBeforeApplyJoinGroup"), Some(Outcome::Allowed));
    assert_eq!(verdict("Group.CallbackBeforeCreateGroup"), Some(Outcome::Allowed));
    assert_eq!(verdict("C2C.CallbackBeforeSendMsg"), Some(Outcome::Allowed));
    assert_eq!(verdict("Future.CallbackBeforeAnything"), Some(Outcome::Allowed));
    // A message that could not be read is not held up.
    assert_eq!(
        rules.verdict(&decode(r#"{"CallbackCommand":"Group.CallbackBeforeSendMsg"}"#)).map(|v| v.outcome),
        Some(Outcome::Allowed)
    );
}

#[test]
fn a_word_may_be_spread_over_the_text_elements_of_a_message() {
    let rules = compiled("[[before.words]]\nwords = [\"spam\"]\n");
    let body = r#"{"CallbackCommand":"Group.CallbackBeforeSendMsg","GroupId":"r","From_Account":"a","MsgBody":[
        {"MsgType":"TIMTextElem","MsgContent":{"Text":"sp"}},{"MsgType":"TIMTextElem","MsgContent":{"Text":"am"}}]}"#;
    assert_eq!(rules.verdict(&decode(body)).map(|v| v.outcome), Some(Outcome::Rejected));
}

#[test]
fn as_many_words_as_allowed_are_compiled() {
    let words = (0..limits::WORDS_MAX).map(|i| format!("w{i:06}")).collect();
    let table =
        Words { words, matching: Matching::Whole, action: WordAction::Reject, code: None, message: String::new() };
    let rules = RuleSet { before: Before { words: vec![table], ..Before::default() }, ..RuleSet::default() };
    let compiled = Compiled::new(&rules, 1).unwrap();
    let rule = |text: &str| compiled.verdict(&decode(&before("r", "a", text))).unwrap().rule;
    assert_eq!(rule("so W099999 it is"), "before.words[0]");
    assert_eq!(rule("so w100000 it is"), "");
}

fn words() -> impl Strategy<Value = Vec<Words>> {
    let word = "[ab草 -]{1,3}".prop_filter("not blank", |w| !w.trim().is_empty());
    let table = (proptest::collection::vec(word, 1..4), any::<bool>()).prop_map(|(words, whole)| Words {
        words,
        matching: if whole { Matching::Whole } else { Matching::Part },
        action: WordAction::Reject,
        code: None,
        message: String::new(),
    });
    proptest::collection::vec(table, 0..4)
}

/// What the automaton should find, said plainly: each table, each word, each place.
fn first_table(tables: &[Words], text: &str) -> Option<usize> {
    let text: Vec<char> = text.to_lowercase().chars().collect();
    tables.iter().position(|table| {
        table.words.iter().any(|word| {
            let word: Vec<char> = word.to_lowercase().chars().collect();
            (0..text.len()).any(|at| {
                let alone = |i: Option<usize>| i.and_then(|i| text.get(i)).is_none_or(|c| !c.is_alphanumeric());
                text[at..].starts_with(&word)
                    && (table.matching == Matching::Part || (alone(at.checked_sub(1)) && alone(Some(at + word.len()))))
            })
        })
    })
}

proptest! {
    #[test]
    fn the_automaton_finds_what_a_plain_search_finds(tables in words(), text in "[aAbB草 -]{0,12}") {
        let rules = RuleSet { before: Before { words: tables.clone(), ..Before::default() }, ..RuleSet::default() };
        let compiled = Compiled::new(&rules, 1).unwrap();
        let verdict = compiled.verdict(&decode(&before("r", "a", &text))).unwrap();
        let expected = first_table(&tables, &text).map_or(String::new(), |i| format!("before.words[{i}]"));
        prop_assert_eq!(verdict.rule, expected);
    }

    #[test]
    fn a_rule_set_survives_its_file_form(tables in words(), ids in proptest::collection::vec("\\PC{1,8}", 0..4), join_ms in 100..600_000_u64) {
        let mut rules = RuleSet::default();
        rules.windows.join_ms = join_ms;
        rules.before.words = tables;
        rules.before.mute.rooms.clone_from(&ids);
        rules.before.mute.room_users = ids.iter().map(|id| RoomUser { room: id.clone(), user: "u".into() }).collect();
        prop_assert_eq!(RuleSet::from_toml(&rules.to_toml()), Ok(rules));
    }

    #[test]
    fn any_data_is_classified_without_panic(data in "(\\{|\\}|\\[|\\]|\"type\"|\"gift\"|\"count\"|:|,|-|1|e9|\\\\u|d8|.){0,20}") {
        let classified = Compiled::shipped().classify(&data);
        prop_assert_eq!(classified.custom.is_some(), matches!(classified.kind, MessageKind::Gift | MessageKind::Like | MessageKind::Membership));
    }
}
