//! The macros that declare settings.

/// Declares a struct of settings, its `Default` and its table.
///
/// ```text
/// settings! {
///     /// The doc comment of the struct.
///     #[derive(Clone, Debug)]
///     pub struct Settings {
///         in Flow, AtStart:
///         /// The help of the setting, without a full stop
///         window: u32 = 65_536, "produce_window", Count(1..=u32::MAX as u64);
///     } with {
///         /// A field that is not a setting itself, such as the settings of a room below.
///         other: other::Settings,
///     }
/// }
/// ```
///
/// Each setting lists its field, type, default, key and [`Kind`](super::Kind), and nothing else repeats them.
/// `in` names the [`Section`](super::Section) of the settings below it, and when a changed value
/// [applies](super::Applies): `AtStart` or `OnReload`. The code that uses a setting with `OnReload` must read it
/// again each time. The type must implement
/// [`Value`](super::Value). An optional expression after the kind is a function that validates the value:
/// `fn(&Type) -> Result<(), String>`. The fields after `with` start with their `Default`.
macro_rules! settings {
    (
        $(#[$attribute:meta])*
        pub struct $name:ident {
            $(
                in $section:ident, $applies:ident:
                $(
                    $(#[doc = $help:literal])+
                    $field:ident: $type:ty = $default:expr, $key:literal, $kind:expr $(, $check:expr)?;
                )+
            )+
        }
        $(with {
            $($(#[$part_attribute:meta])* $part:ident: $part_type:ty,)+
        })?
    ) => {
        $(#[$attribute])*
        // Help is plain text for a terminal, not Markdown.
        #[allow(rustdoc::bare_urls, rustdoc::invalid_html_tags)]
        pub struct $name {
            $($($(#[doc = $help])+ pub $field: $type,)+)+
            $($($(#[$part_attribute])* pub $part: $part_type,)+)?
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $($($field: $default,)+)+
                    $($($part: Default::default(),)+)?
                }
            }
        }

        impl $crate::base::setting::Declared for $name {
            const SETTINGS: &'static [$crate::base::setting::Setting<Self>] = &[
                $($($crate::base::setting::Setting {
                    about: $crate::base::setting::About {
                        section: $crate::base::setting::Section::$section,
                        applies: $crate::base::setting::Applies::$applies,
                        key: $key,
                        kind: {
                            use $crate::base::setting::Kind::*;
                            $kind
                        },
                        help: concat!($($help),+).trim_ascii(),
                    },
                    show: |settings, kind| $crate::base::setting::Value::show(&settings.$field, kind),
                    read: |settings, text, kind| {
                        let value: $type = $crate::base::setting::Value::read(text, kind)?;
                        $($check(&value)?;)?
                        settings.$field = value;
                        Ok(())
                    },
                },)+)+
            ];
        }
    };
}

/// Declares an enum for a setting with a fixed set of values, and their names.
macro_rules! choice {
    (
        $(#[$attribute:meta])*
        pub enum $name:ident {
            $($(#[$variant_attribute:meta])* $variant:ident = $text:literal,)+
        }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_attribute])* $variant,)+
        }

        impl $name {
            /// The names of all values, as in the configuration.
            pub const NAMES: &'static [&'static str] = &[$($text),+];

            /// Returns the name of the value in the configuration.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl $crate::base::setting::Value for $name {
            fn read(text: &str, kind: &$crate::base::setting::Kind) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(kind.refusal(text)),
                }
            }

            fn show(&self, _: &$crate::base::setting::Kind) -> String {
                self.name().to_owned()
            }
        }
    };
}

pub(crate) use {choice, settings};

#[cfg(test)]
mod tests {
    use crate::base::setting::{Applies, Declared, Section};

    choice! {
        /// Colours.
        pub enum Colour {
            /// The first.
            #[default]
            Red = "red",
            /// The other.
            Green = "green",
        }
    }

    fn is_lower_case(text: &str) -> Result<(), String> {
        if text.chars().any(char::is_uppercase) { Err("has capitals".into()) } else { Ok(()) }
    }

    settings! {
        /// The settings of this test.
        #[derive(Debug)]
        pub struct Settings {
            in Flow, AtStart:
            /// How many; see
            /// <others>
            count: u16 = 7, "how_many", Count(1..=9);
            /// The colour
            colour: Colour = Colour::default(), "colour", Choice(Colour::NAMES);
            in Tests, OnReload:
            /// The name
            name: String = "x".into(), "name", Text, is_lower_case;
        } with {
            /// Not a setting.
            rest: Vec<u8>,
        }
    }

    #[test]
    fn a_declared_setting_is_a_field_with_a_default_and_a_row() {
        let mut settings = Settings::default();
        assert_eq!((settings.count, &settings.name[..], settings.rest.len()), (7, "x", 0));
        let [count, colour, name] = Settings::SETTINGS else { panic!("{:?}", Settings::SETTINGS) };
        assert_eq!((count.about.key, count.about.section), ("how_many", Section::Flow));
        assert_eq!((count.about.applies, name.about.applies), (Applies::AtStart, Applies::OnReload));
        assert_eq!(count.about.help, "How many; see <others>");
        assert_eq!(count.get(&settings), "7");
        assert_eq!(count.set(&mut settings, " 8 "), Ok(()));
        assert_eq!(count.set(&mut settings, "10").unwrap_err(), "10 is not within 1 to 9");
        assert_eq!(colour.set(&mut settings, "green"), Ok(()));
        assert_eq!(colour.set(&mut settings, "blue").unwrap_err(), "\"blue\" is not red or green");
        assert_eq!(name.set(&mut settings, "A").unwrap_err(), "has capitals");
        assert_eq!(name.about.section, Section::Tests);
        assert_eq!((settings.count, settings.colour, &settings.name[..]), (8, Colour::Green, "x"));
    }
}
