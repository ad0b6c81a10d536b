//! Instants as ISO 8601 text in UTC, always with milliseconds.

/// Milliseconds of the last instant of the year 9999, the last one that has a four-digit year.
const LAST_MS: u64 = 253_402_300_799_999;
const MS_PER_DAY: u64 = 86_400_000;

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
    fn every_day_agrees_with_chrono() {
        for day in (0..2_932_897_i64).step_by(13) {
            let ms = day * 86_400_000 + day * 7_919 % 86_400_000;
            let expected = chrono::DateTime::from_timestamp_millis(ms)
                .map(|time| time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string());
            assert_eq!(text(ms), expected);
        }
    }
}
