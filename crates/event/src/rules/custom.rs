//! Reads what the rules' paths name out of the JSON text of a custom element, in one pass over it.
//!
//! Paths form a tree; what no path names is skipped. The text comes from a client: numbers saturate, everything that
//! does not fit reads as absent, and a text that is not JSON is a message of kind `custom`.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::CustomRules;
use crate::business::limits::{COUNT_MAX, MONTHS_MAX, VALUE_MAX};
use crate::event::MessageKind;

impl CustomRules {
    /// The paths, by the names of their fields; the order is that of [`Target`].
    pub(super) fn paths(&self) -> [(&'static str, &str); 8] {
        [
            ("type", &self.type_path),
            ("count", &self.count),
            ("value", &self.value),
            ("gift_id", &self.gift_id),
            ("combo_id", &self.combo_id),
            ("order_id", &self.order_id),
            ("tier", &self.tier),
            ("months", &self.months),
        ]
    }

    /// The types of each kind, by the names of their fields.
    pub(super) fn types(&self) -> [(&'static str, &[String]); 4] {
        [("gift", &self.gift), ("like", &self.like), ("membership", &self.membership), ("notice", &self.notice)]
    }
}

/// What a custom element is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classified<'d> {
    /// Gift, like, membership, notice or custom.
    pub kind: MessageKind,
    /// What the paths named; `None` for notices and unknown types.
    pub custom: Option<Custom<'d>>,
}

/// What the paths named in a gift, like or membership.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Custom<'d> {
    /// Likes or gifts, at most 1e9; 1 when not named, 0 when negative.
    pub count: u64,
    /// Value of the whole message, minor units, at most 1e15.
    pub value: u64,
    /// Which gift.
    pub gift_id: Cow<'d, str>,
    /// What makes several messages one combo.
    pub combo_id: Cow<'d, str>,
    /// The app's own order.
    pub order_id: Cow<'d, str>,
    /// Which membership.
    pub tier: Cow<'d, str>,
    /// For how many months, at most 1,200.
    pub months: u32,
}

/// The paths as a tree, and the types by their text.
#[derive(Debug)]
pub(super) struct Paths {
    root: Node,
    types: Vec<(Box<str>, MessageKind)>,
}

#[derive(Debug, Default)]
struct Node {
    /// What is read here, as places in [`Found`].
    targets: Vec<usize>,
    children: Vec<(Box<str>, Node)>,
}

impl Node {
    fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|(step, _)| **step == *name).map(|(_, node)| node)
    }

    fn insert(&mut self, path: &str, target: usize) {
        let mut node = self;
        for step in path.split('.') {
            let at = node.children.iter().position(|(name, _)| **name == *step).unwrap_or_else(|| {
                node.children.push((step.into(), Self::default()));
                node.children.len() - 1
            });
            node = &mut node.children[at].1;
        }
        node.targets.push(target);
    }
}

/// What was found, in the order of [`CustomRules::paths`].
type Found<'d> = [Scalar<'d>; 8];

#[derive(Debug, Clone, Default, PartialEq)]
enum Scalar<'d> {
    #[default]
    Absent,
    Text(Cow<'d, str>),
    Unsigned(u64),
    Signed(i64),
    Real(f64),
}

impl<'d> Scalar<'d> {
    /// As a number from 0 to `max`; negative ones are 0, fractions absent.
    fn number(&self, max: u64) -> Option<u64> {
        match self {
            Self::Absent => None,
            Self::Unsigned(n) => Some((*n).min(max)),
            Self::Signed(n) => Some(u64::try_from(*n).unwrap_or(0).min(max)),
            Self::Real(n) => whole(*n, max),
            Self::Text(text) => match text.trim().parse::<u64>() {
                Ok(n) => Some(n.min(max)),
                Err(_) => whole(text.trim().parse().ok()?, max),
            },
        }
    }

    fn text(self) -> Cow<'d, str> {
        match self {
            Self::Absent | Self::Real(_) => Cow::Borrowed(""),
            Self::Text(text) => text,
            Self::Unsigned(n) => Cow::Owned(n.to_string()),
            Self::Signed(n) => Cow::Owned(n.to_string()),
        }
    }

    fn is(&self, text: &str) -> bool {
        match self {
            Self::Absent | Self::Real(_) => false,
            Self::Text(own) => own == text,
            Self::Unsigned(n) => text.parse() == Ok(*n),
            Self::Signed(n) => text.parse() == Ok(*n),
        }
    }
}

fn whole(number: f64, max: u64) -> Option<u64> {
    if !number.is_finite() || number.fract() != 0.0 {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates, which is what is wanted"
    )]
    let number = number as u64;
    Some(number.min(max))
}

impl Paths {
    pub(super) fn new(rules: &CustomRules) -> Self {
        let mut root = Node::default();
        for (target, (_, path)) in rules.paths().into_iter().enumerate() {
            if !path.is_empty() {
                root.insert(path, target);
            }
        }
        let kinds = [MessageKind::Gift, MessageKind::Like, MessageKind::Membership, MessageKind::Notice];
        let types = kinds.into_iter().zip(rules.types());
        let types = types.flat_map(|(kind, (_, texts))| texts.iter().map(move |text| (text.as_str().into(), kind)));
        Self { root, types: types.collect() }
    }

    /// Tells what the `Data` of a custom element is.
    pub(super) fn classify<'d>(&self, data: &'d str) -> Classified<'d> {
        const OTHER: Classified<'static> = Classified { kind: MessageKind::Custom, custom: None };
        // Most other formats are told by their first byte.
        if !data.trim_start().starts_with(['{', '[']) {
            return OTHER;
        }
        let mut found = Found::default();
        let mut json = serde_json::Deserializer::from_str(data);
        let walk = Walk { node: &self.root, found: &mut found };
        if walk.deserialize(&mut json).is_err() || json.end().is_err() {
            return OTHER;
        }
        let [kind, count, value, gift_id, combo_id, order_id, tier, months] = found;
        let Some(&(_, kind)) = self.types.iter().find(|(text, _)| kind.is(text)) else { return OTHER };
        let custom = (kind != MessageKind::Notice).then(|| Custom {
            count: count.number(COUNT_MAX).unwrap_or(1),
            value: value.number(VALUE_MAX).unwrap_or(0),
            gift_id: gift_id.text(),
            combo_id: combo_id.text(),
            order_id: order_id.text(),
            tier: tier.text(),
            months: months.number(u64::from(MONTHS_MAX)).and_then(|n| n.try_into().ok()).unwrap_or(0),
        });
        Classified { kind, custom }
    }
}

/// Walks down the JSON value and the tree of paths together.
struct Walk<'t, 'f, 'd> {
    node: &'t Node,
    found: &'f mut Found<'d>,
}

impl<'d> Walk<'_, '_, 'd> {
    fn keep(self, scalar: &Scalar<'d>) {
        for &target in &self.node.targets {
            self.found[target] = scalar.clone();
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(child) = map.next_key_seed(Step(self.node))? {
            match child {
                Some(node) => map.next_value_seed(Walk { node, found: self.found })?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        // Places in an array are found by their digits; only small ones can be named.
        let named = |i: usize| if self.node.children.is_empty() { None } else { self.node.child(&i.to_string()) };
        for i in 0.. {
            let more = match named(i) {
                Some(node) => seq.next_element_seed(Walk { node, found: self.found })?.is_some(),
                None => seq.next_element::<IgnoredAny>()?.is_some(),
            };
            if !more {
                break;
            }
        }
        Ok(())
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<(), E> {
        self.keep(&Scalar::Text(Cow::Borrowed(text)));
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.keep(&Scalar::Text(Cow::Owned(text.to_owned())));
        Ok(())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.keep(&Scalar::Unsigned(number));
        Ok(())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.keep(&Scalar::Signed(number));
        Ok(())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        self.keep(&Scalar::Real(number));
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}

/// Finds the child that a key names, without keeping the key.
struct Step<'t>(&'t Node);

impl<'de, 't> DeserializeSeed<'de> for Step<'t> {
    type Value = Option<&'t Node>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'t> Visitor<'_> for Step<'t> {
    type Value = Option<&'t Node>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.child(key))
    }
}
