//! Moments as Kubernetes writes them: RFC 3339 in UTC, whole seconds.

use crate::clock;

/// `2026-01-05T09:00:00Z`, of seconds since 1970.
pub fn format(seconds: u64) -> String {
    format!("{}Z", clock::long(seconds).replace(' ', "T"))
}

/// Seconds since 1970; fractions of them are dropped. Offsets other than `Z` are not read.
pub fn parse(text: &str) -> Option<u64> {
    let text = text.strip_suffix('Z')?;
    let (date, time) = text.split_once('T')?;
    let time = time.split('.').next()?;
    let numbers = |text: &str, separator| -> Option<Vec<u64>> {
        text.split(separator).map(|part| part.parse().ok()).collect()
    };
    let ([year, month, day], [hour, minute, second]) =
        (numbers(date, '-')?.try_into().ok()?, numbers(time, ':')?.try_into().ok()?);
    if !(1970..10_000).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days of the Gregorian calendar, by years that begin on 1 March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = 365 * year + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_and_read() {
        for seconds in [0, 951_782_399, 951_782_400, 1_735_689_599, 1_795_245_872] {
            assert_eq!(parse(&format(seconds)), Some(seconds));
        }
        assert_eq!(format(1_767_603_600), "2026-01-05T09:00:00Z");
        assert_eq!(parse("2026-01-05T09:00:00.123456789Z"), Some(1_767_603_600));
        for bad in ["", "2026-01-05", "2026-13-05T00:00:00Z", "x-1-1T0:0:0Z"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
