//! What a bench measures, as one call that is never inlined: `perf/instructions` counts what happens in it.

use criterion::Bencher;

/// Runs `work` again and again, as `Bencher::iter` does.
pub fn iter<R>(bencher: &mut Bencher<'_>, mut work: impl FnMut() -> R) {
    bencher.iter(|| one_iteration(&mut work));
}

#[inline(never)]
fn one_iteration<R>(work: &mut impl FnMut() -> R) -> R {
    work()
}
