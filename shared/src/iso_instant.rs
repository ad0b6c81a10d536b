//! Instants as ISO 8601 text in UTC, always with milliseconds.

/// Milliseconds of the last instant of the year 9999, the last one that has a four-digit year.
const LAST_MS: u64 = 253_402_300_799_999;
const MS_PER_DAY: u64 = 86_400_000;
/// In 400 years.
const DAYS_PER_CYCLE: i64 = 146_097;

/// Two decimal digits for each number below 100.
const PAIRS: [[u8; 2]; 100] = {
    let mut table = [[0; 2]; 100];
    let mut tens = 0;
    while tens < 10 {
        let mut ones = 0;
        while ones < 10 {
            table[tens * 10 + ones] = [DIGITS[tens], DIGITS[ones]];
            ones += 1;
        }
        tens += 1;
    }
    table
};
const DIGITS: [u8; 10] = *b"0123456789";

/// `2025-08-22T22:00:00.123Z`: 24 ASCII characters, in the order of time.
///
/// The Extended JSON specification says that fractions *should* be left out when they are zero. We always
/// write the three digits, which it permits: instants then have one width, sort as text, and fit one pattern
/// in every reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IsoInstant([u8; 24]);

impl IsoInstant {
    /// `None` before 1970 and after 9999, where Extended JSON wants the number.
    #[inline]
    #[must_use]
    pub fn from_millis(ms: i64) -> Option<Self> {
        let ms = u64::try_from(ms).ok().filter(|&ms| ms <= LAST_MS)?;
        let days = u32::try_from(ms / MS_PER_DAY).ok()?;
        let of_day = u32::try_from(ms % MS_PER_DAY).ok()?;
        let (year, month, day) = civil(days);

        let mut text = *b"0000-00-00T00:00:00.000Z";
        text[0..2].copy_from_slice(pair(year / 100));
        text[2..4].copy_from_slice(pair(year % 100));
        text[5..7].copy_from_slice(pair(month));
        text[8..10].copy_from_slice(pair(day));
        text[11..13].copy_from_slice(pair(of_day / 3_600_000));
        text[14..16].copy_from_slice(pair(of_day / 60_000 % 60));
        text[17..19].copy_from_slice(pair(of_day / 1_000 % 60));
        text[20..22].copy_from_slice(pair(of_day % 1_000 / 10));
        text[22] = DIGITS[(of_day % 10) as usize];
        Some(Self(text))
    }

    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 24] {
        &self.0
    }
}

/// Appends any other instant: years before 0 and after 9999 have a sign and at least six digits, as ISO 8601 has it
/// for those who agreed on it, and as JavaScript writes them.
#[cold]
pub fn write_far(ms: i64, out: &mut Vec<u8>) {
    use std::io::Write as _;

    const DAY: i64 = MS_PER_DAY.cast_signed();
    let (days, of_day) = (ms.div_euclid(DAY), ms.rem_euclid(DAY));
    // Every 400 years the calendar repeats itself: the days are moved into those that `civil` knows.
    let cycles = days.div_euclid(DAYS_PER_CYCLE);
    let of_cycle = u32::try_from(days.rem_euclid(DAYS_PER_CYCLE)).expect("less than 146,097");
    let (year, month, day) = civil(of_cycle);
    let year = i64::from(year) + cycles * 400;
    let written = match year {
        0..=9999 => write!(out, "{year:04}"),
        _ => write!(out, "{year:+07}"),
    };
    let (seconds, ms) = (of_day / 1000, of_day % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    written
        .and_then(|()| write!(out, "-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z"))
        .expect("a Vec takes everything");
}

#[inline]
fn pair(number: u32) -> &'static [u8; 2] {
    &PAIRS[number as usize]
}

/// Year, month and day of a day counted from 1970-01-01. Howard Hinnant's algorithm (`civil_from_days`):
/// years begin in March, so that the leap day is the last of its year.
#[inline]
const fn civil(days: u32) -> (u32, u32, u32) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + (month <= 2) as u32;
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(ms: i64) -> Option<String> {
        IsoInstant::from_millis(ms).map(|instant| String::from_utf8_lossy(instant.as_bytes()).into_owned())
    }

    #[test]
    fn boundaries_of_the_four_digit_years() {
        assert_eq!(text(0).as_deref(), Some("1970-01-01T00:00:00.000Z"));
        assert_eq!(text(253_402_300_799_999).as_deref(), Some("9999-12-31T23:59:59.999Z"));
        assert_eq!(text(1_755_900_000_123).as_deref(), Some("2025-08-22T22:00:00.123Z"));
        for outside in [-1, 253_402_300_800_000, i64::MIN, i64::MAX] {
            assert_eq!(text(outside), None, "{outside}");
        }
    }

    #[test]
    fn far_instants_agree_with_chrono_and_have_signs_outside_of_four_digits() {
        let far = |ms: i64| {
            let mut out = Vec::new();
            write_far(ms, &mut out);
            String::from_utf8_lossy(&out).into_owned()
        };
        for (ms, expected) in [
            (-1, "1969-12-31T23:59:59.999Z"),
            (-62_167_219_200_000, "0000-01-01T00:00:00.000Z"),
            (-62_167_219_200_001, "-000001-12-31T23:59:59.999Z"),
            (253_402_300_800_000, "+010000-01-01T00:00:00.000Z"),
            // As Java has them.
            (i64::MAX, "+292278994-08-17T07:12:55.807Z"),
            (i64::MIN, "-292275055-05-16T16:47:04.192Z"),
        ] {
            assert_eq!(far(ms), expected, "{ms}");
        }
        for day in (-719_528_i64..2_932_897).step_by(17) {
            let ms = day * 86_400_000 + (day * 7_919).rem_euclid(86_400_000);
            let time = chrono::DateTime::from_timestamp_millis(ms).expect("chrono knows these years");
            assert_eq!(far(ms), time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true));
        }
    }

    #[test]
    fn every_day_agrees_with_chrono() {
        for day in (0..2_932_897_i64).step_by(13) {
            let ms = day * 86_400_000 + day * 7_919 % 86_400_000;
            let expected = chrono::DateTime::from_timestamp_millis(ms)
                .map(|time| time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string());
            assert_eq!(text(ms), expected);
        }
    }
}
