//! The distribution of a histogram's values over the rows of a heat map.

use hdrhistogram::Histogram;

/// The lower bound of a heat map, in nanoseconds. Faster values count in the first row.
pub const HEAT_FROM_NS: f64 = 1e3;
/// The number of rows for a factor of ten.
pub const HEAT_ROWS_A_DECADE: u32 = 8;
/// The number of rows: from 1 µs to 100 s. Slower values count in the last row.
pub const HEAT_ROWS: usize = 64;

/// Returns the number of values in each row of a heat map, without the empty rows at the end.
pub fn heat_of(histogram: &Histogram<u64>) -> Vec<u64> {
    let mut counts = Vec::new();
    for step in histogram.iter_recorded() {
        let value = step.value_iterated_to() as f64;
        let row = ((value / HEAT_FROM_NS).log10() * f64::from(HEAT_ROWS_A_DECADE)).max(0.0) as usize;
        let row = row.min(HEAT_ROWS - 1);
        if counts.len() <= row {
            counts.resize(row + 1, 0);
        }
        counts[row] += step.count_since_last_iteration();
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::histogram;

    #[test]
    fn every_value_counts_in_its_row_of_the_heat_map() {
        let mut one = histogram();
        for (value, count) in [(10, 3), (1_500, 2), (10_010, 5), (u64::MAX, 1)] {
            one.saturating_record_n(value, count);
        }
        let counts = heat_of(&one);
        assert_eq!(counts.iter().sum::<u64>(), 11);
        assert_eq!((counts[0], counts[1], counts[8]), (3, 2, 5));
        assert_eq!(counts.last(), Some(&1));
        assert!(counts.len() <= HEAT_ROWS);
    }
}
