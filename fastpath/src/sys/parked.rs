//! A list whose values are taken out in any order, each once.

/// Up to 64 values, numbered from 0.
#[derive(Debug)]
pub(crate) struct Parked<T> {
    /// Its length is 0; the values that are left are bits of `left`.
    values: Vec<T>,
    left: u64,
}

impl<T> Default for Parked<T> {
    fn default() -> Parked<T> {
        Parked { values: Vec::new(), left: 0 }
    }
}

impl<T> Parked<T> {
    /// Takes all values of a list, which gets the memory of the one before. Panics when there are
    /// more than 64, or when some have not been taken.
    #[inline]
    pub(crate) fn park(&mut self, values: &mut Vec<T>) {
        assert!(self.left == 0 && values.len() <= 64);
        std::mem::swap(&mut self.values, values);
        self.left = u64::MAX.checked_shr(64 - self.values.len() as u32).unwrap_or(0);
        // SAFETY: no value is left behind the end, but those whose bits say so.
        unsafe { self.values.set_len(0) };
    }

    /// The values whose bits are set, as far as they are there: behind the others of `out`, in
    /// order.
    #[inline]
    pub(crate) fn take(&mut self, bits: u64, out: &mut Vec<T>) {
        let mut bits = bits & self.left;
        self.left &= !bits;
        while bits != 0 {
            // SAFETY: bits are set of numbers below the length that the list had.
            let place = unsafe { self.values.as_ptr().add(bits.trailing_zeros() as usize) };
            // SAFETY: the value has not been taken, as its bit said, and will not be again.
            out.push(unsafe { place.read() });
            bits &= bits - 1;
        }
    }
}

impl<T> Drop for Parked<T> {
    fn drop(&mut self) {
        self.take(u64::MAX, &mut Vec::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn each_value_is_taken_once_and_the_rest_is_dropped() {
        let one = Rc::new(());
        for count in [0, 1, 3, 64] {
            let mut values: Vec<_> = (0..count).map(|at| (at, one.clone())).collect();
            let mut parked = Parked::default();
            parked.park(&mut values);
            assert!(values.is_empty());
            assert_eq!(Rc::strong_count(&one), 1 + count);
            let (mut out, bits) = (Vec::new(), [1 << 2 | 1, 1 << 63 | 1 << 2 | 1 << 1]);
            bits.into_iter().for_each(|bits| parked.take(bits, &mut out));
            let wanted = [0, 2, 1, 63].into_iter().filter(|at| *at < count);
            assert!(out.drain(..).map(|(at, _)| at).eq(wanted));
            drop(parked);
            assert_eq!(Rc::strong_count(&one), 1);
        }
    }
}
