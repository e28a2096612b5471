//! Small words in answers.

/// `1 peer`, `2 peers`.
pub(super) fn counted(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// A value, or a dash.
pub(super) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A moment, given in seconds since 1970, as `2026-11-26 13:37:00` (UTC).
pub(super) fn date(time: u64) -> String {
    let (days, seconds) = (time / 86_400, time % 86_400);
    // Days since 1 March of year 0 of the proleptic Gregorian calendar, whose eras have 400 years.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let shown = [0, 951_782_399, 951_782_400, 1_795_651_261].map(date);
        assert_eq!(
            shown,
            ["1970-01-01 00:00:00", "2000-02-28 23:59:59", "2000-02-29 00:00:00", "2026-11-26 00:01:01"]
        );
    }
}
