//! Enums of the model that have the same variants as an enum of the messages.

/// Defines an enum with the variants of `pb::$name`, in the order given, and `Unknown` last.
///
/// A number that this version does not know, and the number 0, become `Unknown`: what carries it
/// is kept. `Unknown` is sent as 0.
macro_rules! wire_enum {
    (
        $(#[$outer:meta])*
        $name:ident { $( $(#[$inner:meta])* $variant:ident => $text:literal, )* }
    ) => {
        $(#[$outer])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
        pub enum $name {
            $( $(#[$inner])* $variant, )*
            /// Not said, or said by a newer version in a way this one does not know.
            #[default]
            Unknown,
        }

        impl $name {
            /// In words, for people.
            pub fn as_str(self) -> &'static str {
                match self {
                    $( Self::$variant => $text, )*
                    Self::Unknown => "unknown",
                }
            }

            /// From the number used in messages.
            pub fn from_wire(number: i32) -> Self {
                match $crate::pb::$name::try_from(number) {
                    $( Ok($crate::pb::$name::$variant) => Self::$variant, )*
                    Ok($crate::pb::$name::Unspecified) | Err(_) => Self::Unknown,
                }
            }

            /// The number used in messages.
            pub fn to_wire(self) -> i32 {
                $crate::pb::$name::from(self) as i32
            }
        }

        impl From<$name> for $crate::pb::$name {
            fn from(value: $name) -> Self {
                match value {
                    $( $name::$variant => Self::$variant, )*
                    $name::Unknown => Self::Unspecified,
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

pub(crate) use wire_enum;
