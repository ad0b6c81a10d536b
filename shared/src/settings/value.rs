//! From the text of a setting to its type. Every parser is strict: what it does not know, it refuses.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;

use super::secret::Secret;

/// Why a text was refused, in words that complete "expected …".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// What the table says.
    AsDeclared,
    /// Something more exact than the table can say.
    Exactly(Cow<'static, str>),
}

impl Expected {
    pub fn exactly(text: impl Into<Cow<'static, str>>) -> Self {
        Self::Exactly(text.into())
    }
}

/// A type that a setting can have. The text is trimmed and never empty.
pub trait FromSetting: Sized {
    /// # Errors
    /// What was expected instead.
    fn from_setting(text: &str) -> Result<Self, Expected>;
}

impl FromSetting for String {
    fn from_setting(text: &str) -> Result<Self, Expected> {
        Ok(text.to_owned())
    }
}

impl FromSetting for Secret {
    fn from_setting(text: &str) -> Result<Self, Expected> {
        Ok(Self::new(text))
    }
}

impl FromSetting for PathBuf {
    fn from_setting(text: &str) -> Result<Self, Expected> {
        Ok(Self::from(text))
    }
}

/// `true`, `false`, `1`, `0`, `yes`, `no` in any case, and nothing else: `ture` must not mean `false`.
impl FromSetting for bool {
    fn from_setting(text: &str) -> Result<Self, Expected> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" => Ok(true),
            "false" | "0" | "no" => Ok(false),
            _ => Err(Expected::exactly("true, false, 1, 0, yes or no")),
        }
    }
}

/// Items by comma; blanks around items and empty items are dropped.
impl<T: FromSetting> FromSetting for Vec<T> {
    fn from_setting(text: &str) -> Result<Self, Expected> {
        let items: Self = text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(T::from_setting)
            .collect::<Result<_, _>>()?;
        if items.is_empty() { Err(Expected::AsDeclared) } else { Ok(items) }
    }
}

/// `8MiB`, `500 kB`, `0`. A bare number counts bytes.
impl FromSetting for ByteSize {
    fn from_setting(text: &str) -> Result<Self, Expected> {
        Self::from_str(text).map_err(|_| Expected::exactly("a size with its unit, such as 8MiB"))
    }
}

/// `5s`, `1h 30m`, `250ms`, `0`. Any other bare number is refused, because seconds and milliseconds are both usual.
impl FromSetting for Duration {
    fn from_setting(text: &str) -> Result<Self, Expected> {
        if text == "0" {
            return Ok(Self::ZERO);
        }
        humantime::parse_duration(text)
            .map_err(|_| Expected::exactly("a duration with its unit, such as 5s, 250ms or 1h"))
    }
}

/// Numeric address and port to listen on; port 0 lets the system choose.
impl FromSetting for SocketAddr {
    fn from_setting(text: &str) -> Result<Self, Expected> {
        text.parse().map_err(|_| Expected::AsDeclared)
    }
}

macro_rules! whole_numbers {
    ($($number:ty),*) => {$(
        impl FromSetting for $number {
            fn from_setting(text: &str) -> Result<Self, Expected> {
                text.parse().map_err(|_| Expected::AsDeclared)
            }
        }
    )*};
}
whole_numbers!(u16, u32, u64, usize, i32, i64);

/// A finite number, such as a share.
impl FromSetting for f64 {
    fn from_setting(text: &str) -> Result<Self, Expected> {
        text.parse().ok().filter(|number: &Self| number.is_finite()).ok_or(Expected::AsDeclared)
    }
}

/// A server: host name or address, and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

impl HostPort {
    /// Whether what is sent there stays on this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// `host:port` or `[IPv6]:port`; the port is needed.
impl FromSetting for HostPort {
    fn from_setting(text: &str) -> Result<Self, Expected> {
        let expected = || Expected::exactly("host:port, such as broker-1:9092");
        let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(expected)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let valid = match bracketed {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                !host.is_empty()
                    && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
            }
        };
        if !valid {
            return Err(expected());
        }
        Ok(Self { host: bracketed.unwrap_or(host).to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn booleans_are_strict() {
        for (text, value) in [("true", true), ("NO", false), ("1", true), ("0", false), ("Yes", true)] {
            assert_eq!(bool::from_setting(text), Ok(value));
        }
        for text in ["ture", "on", "t", "2"] {
            assert!(bool::from_setting(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_and_durations_carry_units() {
        assert_eq!(ByteSize::from_setting("8MiB").unwrap().as_u64(), 8 << 20);
        assert_eq!(ByteSize::from_setting("1 kB").unwrap().as_u64(), 1000);
        assert_eq!(ByteSize::from_setting("134217728").unwrap().as_u64(), 128 << 20);
        assert_eq!(Duration::from_setting("1m 30s").unwrap().as_secs(), 90);
        assert_eq!(Duration::from_setting("250ms").unwrap().as_millis(), 250);
        assert_eq!(Duration::from_setting("0").unwrap(), Duration::ZERO);
        for text in ["8 apples", "-1MiB", "MiB"] {
            assert!(ByteSize::from_setting(text).is_err(), "{text}");
        }
        for text in ["5", "-5s", "soon"] {
            assert!(Duration::from_setting(text).is_err(), "{text}");
        }
    }

    #[test]
    fn brokers_are_host_and_port() {
        for text in ["kafka:9092", "10.0.0.1:1", "[::1]:9092"] {
            assert_eq!(HostPort::from_setting(text).unwrap().to_string(), text);
        }
        for text in ["kafka", "kafka:", "kafka:0", ":9092", "PLAINTEXT://kafka:9092", "::1:9092", "a b:1"] {
            assert!(HostPort::from_setting(text).is_err(), "{text}");
        }
        let loopback = |text| HostPort::from_setting(text).unwrap().is_loopback();
        assert!(loopback("localhost:1") && loopback("127.0.0.9:1") && loopback("[::1]:1"));
        assert!(!loopback("kafka:1") && !loopback("localhost.example.org:1"));
    }

    #[test]
    fn lists_drop_blanks_but_are_never_empty() {
        assert_eq!(Vec::<String>::from_setting(" a, b ,,c").unwrap(), ["a", "b", "c"]);
        assert!(Vec::<String>::from_setting(" , ").is_err());
        assert!(Vec::<u16>::from_setting("1,x").is_err());
    }
}
