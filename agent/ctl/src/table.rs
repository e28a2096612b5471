//! Text for people: columns, durations, rates.

/// Lays out rows under a heading, two spaces in, with columns as wide as their widest cell. Nothing for no rows.
pub(crate) fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut widths = heading.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = line(heading, &widths);
    for row in rows {
        text.push_str(&line(row.each_ref().map(String::as_str), &widths));
    }
    text
}

fn line<const N: usize>(cells: [&str; N], widths: &[usize; N]) -> String {
    let mut text = String::from("  ");
    for (cell, width) in cells.iter().zip(widths) {
        text.push_str(&format!("{cell:width$}  "));
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// `45s`, `3m12s`, `5h03m`, `2d04h`.
pub(crate) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// A rate with the largest suffix that loses nothing; `-` for none.
pub(crate) fn rate(bits: Option<u64>) -> String {
    let Some(mut bits) = bits else { return "-".to_owned() };
    let mut suffix = "";
    for next in ["k", "M", "G", "T", "P"] {
        if bits == 0 || !bits.is_multiple_of(1000) {
            break;
        }
        bits /= 1000;
        suffix = next;
    }
    format!("{bits}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_no_line_ends_in_space() {
        let rows = [["a".to_owned(), "long cell".to_owned()], ["bbb".to_owned(), String::new()]];
        assert_eq!(table(["X", "Y"], &rows), "  X    Y\n  a    long cell\n  bbb\n");
        assert_eq!(table::<1>(["X"], &[]), "");
    }

    #[test]
    fn durations_and_rates_are_short() {
        let shown = [0, 59, 61, 3_600, 90_000].map(duration);
        assert_eq!(shown, ["0s", "59s", "1m01s", "1h00m", "1d01h"]);
        assert_eq!(
            [None, Some(100_000_000), Some(1_500_000), Some(7)].map(rate),
            ["-", "100M", "1500k", "7"]
        );
    }
}
