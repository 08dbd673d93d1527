//! Moments as people read them, in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

/// Moments within so many seconds are told by the time of day, as BIRD does it.
const RECENT_S: u64 = 20 * 3600;

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `hh:mm:ss`, or `yyyy-mm-dd` when it is long ago.
pub(crate) fn short(then: u64, now: u64) -> String {
    match now.saturating_sub(then) < RECENT_S {
        true => time(then),
        false => date(then),
    }
}

/// `yyyy-mm-dd hh:mm:ss`.
pub(crate) fn long(then: u64) -> String {
    format!("{} {}", date(then), time(then))
}

fn time(then: u64) -> String {
    format!("{:02}:{:02}:{:02}", then / 3600 % 24, then / 60 % 60, then % 60)
}

/// The date of the Gregorian calendar, by eras of 400 years that begin on 1 March.
fn date(then: u64) -> String {
    let days = then / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{:02}", day - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(long(0), "1970-01-01 00:00:00");
        assert_eq!(long(951_782_399), "2000-02-28 23:59:59");
        assert_eq!(long(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(long(1_735_689_599), "2024-12-31 23:59:59");
        assert_eq!(long(1_795_245_872), "2026-11-21 07:24:32");
        assert_eq!(short(100, 100 + RECENT_S), "1970-01-01");
        assert_eq!(short(100, 99 + RECENT_S), "00:01:40");
    }
}
