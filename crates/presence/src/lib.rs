//! Presence: who is in a room.
