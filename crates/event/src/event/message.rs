//! Group messages: before delivery, delivered, failed.

use std::borrow::Cow;

use super::elements::{ElementView, Elements};
use super::lists::Strings;
use super::view::view;

/// What a message is, by its first element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum MessageKind {
    /// `TIMTextElem`.
    Text,
    /// `TIMFaceElem`.
    Face,
    /// `TIMImageElem`.
    Image,
    /// `TIMSoundElem`.
    Sound,
    /// `TIMVideoFileElem`.
    Video,
    /// `TIMFileElem`.
    File,
    /// `TIMLocationElem`.
    Location,
    /// `TIMRelayElem`: merged forward.
    Relay,
    /// A custom element that the rules read as a gift.
    Gift,
    /// A custom element that the rules read as likes.
    Like,
    /// A custom element that the rules read as a membership.
    Membership,
    /// A custom element that the rules read as a notice.
    Notice,
    /// Any other custom element, an element this version does not know, or no element.
    #[default]
    Custom,
}

impl MessageKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 13] = [
        Self::Text,
        Self::Face,
        Self::Image,
        Self::Sound,
        Self::Video,
        Self::File,
        Self::Location,
        Self::Relay,
        Self::Gift,
        Self::Like,
        Self::Membership,
        Self::Notice,
        Self::Custom,
    ];

    /// Name in answers: `text`, `face`, ...
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Face => "face",
            Self::Image => "image",
            Self::Sound => "sound",
            Self::Video => "video",
            Self::File => "file",
            Self::Location => "location",
            Self::Relay => "relay",
            Self::Gift => "gift",
            Self::Like => "like",
            Self::Membership => "membership",
            Self::Notice => "notice",
            Self::Custom => "custom",
        }
    }

    /// From the number in the record, 1 to 13; any other is [`MessageKind::Custom`].
    #[must_use]
    pub const fn from_wire(number: i32) -> Self {
        match number {
            1 => Self::Text,
            2 => Self::Face,
            3 => Self::Image,
            4 => Self::Sound,
            5 => Self::Video,
            6 => Self::File,
            7 => Self::Location,
            8 => Self::Relay,
            9 => Self::Gift,
            10 => Self::Like,
            11 => Self::Membership,
            12 => Self::Notice,
            _ => Self::Custom,
        }
    }

    /// The number in the record, 1 to 13.
    #[must_use]
    pub const fn to_wire(self) -> i32 {
        match self {
            Self::Text => 1,
            Self::Face => 2,
            Self::Image => 3,
            Self::Sound => 4,
            Self::Video => 5,
            Self::File => 6,
            Self::Location => 7,
            Self::Relay => 8,
            Self::Gift => 9,
            Self::Like => 10,
            Self::Membership => 11,
            Self::Notice => 12,
            Self::Custom => 13,
        }
    }
}

view! {
    /// A group message before delivery, delivered, or failed.
    ///
    /// Which fields are there depends on the callback: `msg_seq` and `msg_time_s` only when delivered, `error_code` and
    /// `error_info` only when failed, `msg_id` not on older deployments.
    pub struct Message<'a> {
        /// The room.
        group_id: &'a str = 1 string,
        /// `AVChatRoom`, `Live`, `Public`, ...
        group_type: &'a str = 2 string,
        /// The sender shown to others.
        from_account: &'a str = 3 string,
        /// Who made the request; an administrator when sent by REST.
        operator_account: &'a str = 4 string,
        /// Chosen by the sender; not unique over time.
        random: Option<u32> = 5 opt_uint32,
        /// Id made by the client, the same before and after delivery; empty when there is none.
        msg_id: &'a str = 6 string,
        /// Sequence number in the group.
        msg_seq: Option<u64> = 7 opt_uint64,
        /// Server time of the message, seconds since the epoch.
        msg_time_s: Option<i64> = 8 opt_int64,
        /// What it is, by its first element.
        kind: MessageKind = 9 kind,
        /// What the rules read out of a custom element; `None` for other messages and when `Data` holds nothing known.
        custom: Option<CustomFields<'a>> = 10 custom,
        /// Why it failed; 0 unless it did.
        error_code: i32 = 11 int32,
        /// The same as text.
        error_info: &'a str = 12 string,
        /// Topic of a community.
        topic_id: &'a str = 13 string,
        /// The elements.
        elements: Elements<'a> = 16 elements,
        /// The app's own data beside the elements.
        cloud_custom_data: &'a str = 17 string,
        /// Accounts mentioned with @.
        at_accounts: Strings<'a> = 18 strings,
        /// Whether everybody is mentioned with @.
        at_all: bool = 19 bool,
    }
}

impl<'a> Message<'a> {
    /// The text of the message: its text elements one after the other, empty when it has none.
    ///
    /// Borrowed unless there is more than one.
    #[must_use]
    pub fn text(&self) -> Cow<'a, str> {
        let mut text = Cow::Borrowed("");
        for element in self.elements.iter() {
            if let Ok(ElementView::Text(part)) = element {
                if text.is_empty() {
                    text = Cow::Borrowed(part);
                } else {
                    text.to_mut().push_str(part);
                }
            }
        }
        text
    }
}

view! {
    /// What the rules' field paths read out of a custom element. Made by a client: capped, but not to be trusted.
    pub struct CustomFields<'a> {
        /// Likes, or number of gifts; 1 when the message names none, at most 1e9.
        count: u64 = 1 uint64,
        /// Value of the whole message, minor units, at most 1e15.
        value: u64 = 2 uint64,
        /// Which gift.
        gift_id: &'a str = 3 string,
        /// What makes several messages one combo.
        combo_id: &'a str = 4 string,
        /// The app's own order.
        order_id: &'a str = 5 string,
        /// Which membership.
        tier: &'a str = 6 string,
        /// For how many months, at most 1,200.
        months: u32 = 7 uint32,
    }
}
