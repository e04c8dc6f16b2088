//! What a bench measures, as one call that is never inlined: `perf/instructions` counts what happens in it.

use std::hint::black_box;

use criterion::Bencher;

/// `perf/instructions` sets this variable. A bench then runs fixed numbers of iterations and says what they are.
const COUNTED: &str = "MILLSTREAM_BENCH_COUNTED";

/// Iterations before the counted ones. The memory store of the benches is full after 259 batches, and drops its oldest from then on.
const WARM_UP: u32 = 300;

/// Counted iterations: enough to average what happens at every tenth.
const ITERATIONS: u32 = 100;

/// Runs `work` again and again, as `Bencher::iter` does. An iteration handles `number` of `unit`.
pub fn iter<R>(bencher: &mut Bencher<'_>, number: usize, unit: &str, mut work: impl FnMut() -> R) {
    if std::env::var_os(COUNTED).is_none() {
        return bencher.iter(|| one_iteration(&mut work));
    }
    for _ in 0..WARM_UP {
        black_box(work());
    }
    for _ in 0..ITERATIONS {
        black_box(one_iteration(&mut work));
    }
    println!("counted {ITERATIONS} of {number} {unit}");
    bencher.iter(|| ());
}

/// Callgrind collects between the beginning and the end of this function.
#[inline(never)]
fn one_iteration<R>(work: &mut impl FnMut() -> R) -> R {
    work()
}
