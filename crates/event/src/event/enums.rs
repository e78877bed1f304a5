//! What an account's connection did, and why a member's state changed.

/// What an account's connection did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Action {
    /// None of those below.
    #[default]
    Unspecified,
    /// A device connected, also after a lost network.
    Login,
    /// The account logged out.
    Logout,
    /// The connection was lost.
    Disconnect,
    /// A custom status was set.
    CustomStatus,
}

impl Action {
    /// From the number in the record; unknown ones are [`Action::Unspecified`].
    #[must_use]
    pub const fn from_wire(number: i32) -> Self {
        match number {
            1 => Self::Login,
            2 => Self::Logout,
            3 => Self::Disconnect,
            4 => Self::CustomStatus,
            _ => Self::Unspecified,
        }
    }

    /// The number in the record.
    #[must_use]
    pub const fn to_wire(self) -> i32 {
        match self {
            Self::Unspecified => 0,
            Self::Login => 1,
            Self::Logout => 2,
            Self::Disconnect => 3,
            Self::CustomStatus => 4,
        }
    }
}

/// Why a member of an `AVChatRoom` went online or offline.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Not told (older callbacks), or none of those below.
    #[default]
    Unspecified,
    /// The first device of the user entered.
    Join,
    /// The last device of the user left.
    Quit,
    /// No heartbeat from any device; told 30 to 50 s late.
    HeartbeatInterrupt,
    /// A heartbeat again.
    HeartbeatRecover,
}

impl Cause {
    /// From the number in the record; unknown ones are [`Cause::Unspecified`].
    #[must_use]
    pub const fn from_wire(number: i32) -> Self {
        match number {
            1 => Self::Join,
            2 => Self::Quit,
            3 => Self::HeartbeatInterrupt,
            4 => Self::HeartbeatRecover,
            _ => Self::Unspecified,
        }
    }

    /// The number in the record.
    #[must_use]
    pub const fn to_wire(self) -> i32 {
        match self {
            Self::Unspecified => 0,
            Self::Join => 1,
            Self::Quit => 2,
            Self::HeartbeatInterrupt => 3,
            Self::HeartbeatRecover => 4,
        }
    }
}
