//! Why a gossip message was not taken, and how often that happened.

use thiserror::Error;

macro_rules! refusals {
    ($($(#[doc = $doc:literal])+ $variant:ident, $field:ident, $message:literal;)+) => {
        /// Why a gossip message was refused.
        ///
        /// Nothing here is an error of this peer: gossip carries what strangers send.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
        #[non_exhaustive]
        pub enum Refusal {
            $($(#[doc = $doc])+ #[error($message)] $variant,)+
        }

        impl Refusal {
            /// The reason as one word, as it stands in statistics and vectors.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($field),)+ }
            }
        }

        /// Messages refused so far, by reason.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Refused {
            $($(#[doc = $doc])+ pub $field: u64,)+
        }

        impl Refused {
            /// Counts one refusal.
            pub fn count(&mut self, refusal: Refusal) {
                let counter = match refusal { $(Refusal::$variant => &mut self.$field,)+ };
                *counter = counter.saturating_add(1);
            }

            /// All refusals as (reason, count), in the order of the fields.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($field), self.$field),)+].into_iter()
            }

            /// The sum over all reasons.
            pub fn total(&self) -> u64 {
                self.iter().fold(0, |sum, (_, count)| sum.saturating_add(count))
            }
        }
    };
}

refusals! {
    /// Not a message of this protocol.
    Malformed, malformed, "not a signed value";
    /// Longer than any valid message.
    Oversize, oversize, "the message is too long";
    /// More trailing bytes than a repeat may carry.
    Trailing, trailing, "too many bytes after the message";
    /// The key is too long.
    Key, key, "the key is too long";
    /// The value is too long.
    Value, value, "the value is too long";
    /// Dated further into the future than clocks may differ.
    Future, future, "the timestamp is too far in the future";
    /// Dated further into the past than clocks may differ.
    Past, past, "the timestamp is too far in the past";
    /// Older than what is known here, or known to have expired.
    Stale, stale, "a newer value is known";
    /// The signature is not the scope's.
    Signature, signature, "the signature is wrong";
    /// The scope has all the keys it may have.
    Keys, keys, "the scope has too many keys";
    /// The room has all the scopes it may have.
    Scopes, scopes, "the topic has too many scopes";
    /// The store is as large as it may be.
    Full, full, "the store is full";
}
