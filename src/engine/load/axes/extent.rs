//! The symbolic size of an axis: a product of the number of records, a number, and unknown sizes
//! that are the same for every batch of records of one shape.

/// A size of the form `records? * factor * symbols`. Equal extents are equal in every run.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Extent {
    has_batch: bool,
    factor: u64,
    /// Sorted.
    symbols: Vec<u32>,
}

/// Limit on the unknown factors of a product.
const MAX_SYMBOLS: usize = 24;

impl Extent {
    pub const fn known(size: u64) -> Self {
        Self {
            has_batch: false,
            factor: size,
            symbols: Vec::new(),
        }
    }

    pub const ONE: Self = Self::known(1);

    /// The number of records.
    pub const BATCH: Self = Self {
        has_batch: true,
        factor: 1,
        symbols: Vec::new(),
    };

    pub fn is_one(&self) -> bool {
        *self == Self::ONE
    }

    pub fn has_batch(&self) -> bool {
        self.has_batch
    }

    pub fn size(&self) -> Option<u64> {
        (!self.has_batch && self.symbols.is_empty()).then_some(self.factor)
    }

    /// The symbol, if the extent is a single unknown size.
    pub fn symbol(&self) -> Option<u32> {
        match (self.has_batch, self.factor, &*self.symbols) {
            (false, 1, [symbol]) => Some(*symbol),
            _ => None,
        }
    }

    /// The product. `None` if it contains the number of records twice, or exceeds the limits.
    pub fn times(&self, other: &Self) -> Option<Self> {
        let mut symbols = [&*self.symbols, &*other.symbols].concat();
        symbols.sort_unstable();
        (!(self.has_batch && other.has_batch) && symbols.len() <= MAX_SYMBOLS).then_some(())?;
        Some(Self {
            has_batch: self.has_batch || other.has_batch,
            factor: self.factor.checked_mul(other.factor)?,
            symbols,
        })
    }

    /// The quotient. `None` unless `self` is a multiple of `other` in every run.
    pub fn over(&self, other: &Self) -> Option<Self> {
        if other.factor == 0 || !self.factor.is_multiple_of(other.factor) || (other.has_batch && !self.has_batch) {
            return None;
        }
        let mut symbols = self.symbols.clone();
        for symbol in &other.symbols {
            let place = symbols.iter().position(|own| own == symbol)?;
            symbols.remove(place);
        }
        Some(Self {
            has_batch: self.has_batch && !other.has_batch,
            factor: self.factor / other.factor,
            symbols,
        })
    }

    pub fn product<'a>(extents: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        extents
            .into_iter()
            .try_fold(Self::ONE, |product, extent| product.times(extent))
    }
}

/// A source of new unknown sizes.
#[derive(Debug, Default)]
pub struct Symbols(u32);

impl Symbols {
    pub fn fresh(&mut self) -> Extent {
        self.0 += 1;
        Extent {
            has_batch: false,
            factor: 1,
            symbols: vec![self.0],
        }
    }

    pub fn fresh_dims(&mut self, rank: usize) -> Vec<Extent> {
        (0..rank).map(|_| self.fresh()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_and_quotients_of_extents_are_exact_or_none() {
        let mut symbols = Symbols::default();
        let (s, t) = (symbols.fresh(), symbols.fresh());
        let six = Extent::known(6);
        let product = Extent::BATCH.times(&s).unwrap().times(&six).unwrap();
        assert!(product.has_batch());
        assert_eq!(product.over(&s), Extent::BATCH.times(&six));
        assert_eq!(product.over(&Extent::BATCH), s.times(&six));
        assert_eq!(product.over(&product), Some(Extent::ONE));
        assert_eq!(product.over(&t), None);
        assert_eq!(product.over(&Extent::known(4)), None);
        assert_eq!(product.over(&Extent::known(0)), None);
        assert_eq!(s.over(&Extent::BATCH), None);
        assert_eq!(Extent::BATCH.times(&Extent::BATCH), None);
        assert_eq!(Extent::known(u64::MAX).times(&six), None);
        assert_eq!(
            (s.symbol().is_some(), six.symbol(), product.symbol()),
            (true, None, None)
        );
    }
}
