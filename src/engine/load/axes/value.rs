//! The abstract values of the analysis, which track where the records of a batch are in a tensor.

use std::rc::Rc;

use super::extent::{Extent, Symbols};

/// Limit on the elements of a tensor that are tracked one by one.
pub const MAX_ENTRIES: usize = 256;

/// The analysis' knowledge about a value of the graph.
#[derive(Debug, Clone, PartialEq)]
pub enum AbstractValue {
    Tensor(AbstractTensor),
    /// A sequence of tensors that all match this one. Its length does not depend on the batch.
    Sequence(AbstractTensor),
    /// A sequence with one item for each record, as `ZipMap` returns.
    Items,
    /// Records influence each other here, for this reason.
    Mixed(Rc<str>),
}

/// The analysis' knowledge about a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct AbstractTensor {
    /// `None` for an unknown rank.
    pub dims: Option<Vec<Extent>>,
    pub batch: Batch,
    /// The elements of a small tensor of rank 0 or 1, such as sizes or axes.
    pub entries: Option<Vec<SizeEntry>>,
}

/// The dependence of a tensor on the batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Batch {
    /// None: it is the same for every batch of records of the same shape.
    Same,
    /// Each part belongs to one record, and is the same as for the record alone.
    Records(RecordPlace),
    /// It depends only on the number of records, in the way that its entries show.
    Sizes,
}

/// The place of the records in a tensor: index `(p * records + i) * inner + q` of the axis
/// belongs to record `i`, for all `p` below `outer` and `q` below `inner`.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordPlace {
    pub axis: usize,
    pub outer: Extent,
    pub inner: Extent,
}

/// An element of a tensor of sizes.
#[derive(Debug, Clone, PartialEq)]
pub enum SizeEntry {
    Number(i64),
    Extent(Extent),
    /// Unknown, but the same for every batch.
    Same,
    /// It depends on the number of records in a way that is not tracked.
    Mixed,
}

/// The reason that an operator's outputs are unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix {
    pub text: &'static str,
    /// Whether this also applies if no input depends on the batch.
    pub always: bool,
}

/// The operator computes with more than one record at a time.
pub const MIXES: Mix = Mix::new("mixes the records of a batch");

impl Mix {
    pub const fn new(text: &'static str) -> Self {
        Self { text, always: false }
    }
}

impl RecordPlace {
    /// One index for each record, along `axis`.
    pub const fn plain(axis: usize) -> Self {
        Self {
            axis,
            outer: Extent::ONE,
            inner: Extent::ONE,
        }
    }

    pub fn at(&self, axis: usize) -> Self {
        Self { axis, ..self.clone() }
    }

    /// Whether `other` has the same layout, possibly on another axis.
    pub fn is_like(&self, other: &Self) -> bool {
        self.outer == other.outer && self.inner == other.inner
    }

    pub fn extent(&self) -> Option<Extent> {
        self.outer.times(&Extent::BATCH)?.times(&self.inner)
    }
}

impl SizeEntry {
    pub fn is_same(&self) -> bool {
        match self {
            Self::Number(_) | Self::Same => true,
            Self::Extent(extent) => !extent.has_batch(),
            Self::Mixed => false,
        }
    }

    /// The extent; `None` if the element may not be a size.
    pub fn extent(&self) -> Option<Extent> {
        match self {
            Self::Number(number) => u64::try_from(*number).ok().map(Extent::known),
            Self::Extent(extent) => Some(extent.clone()),
            Self::Same | Self::Mixed => None,
        }
    }

    /// The entry for an extent, in its simplest form.
    pub fn of(extent: Extent) -> Self {
        match extent.size().and_then(|size| i64::try_from(size).ok()) {
            Some(number) => Self::Number(number),
            None => Self::Extent(extent),
        }
    }
}

impl AbstractTensor {
    pub fn same(dims: Option<Vec<Extent>>) -> Self {
        Self {
            dims,
            batch: Batch::Same,
            entries: None,
        }
    }

    pub fn scalar() -> Self {
        Self::same(Some(Vec::new()))
    }

    /// A tensor with records at `place`. Sets the extent of that axis.
    pub fn records(dims: Option<Vec<Extent>>, place: RecordPlace) -> Self {
        let mut dims = dims;
        if let Some(list) = &mut dims {
            match (list.get_mut(place.axis), place.extent()) {
                (Some(dim), Some(extent)) => *dim = extent,
                // The rank contradicts the place. ONNX Runtime rejects such a model.
                _ => dims = None,
            }
        }
        Self {
            dims,
            batch: Batch::Records(place),
            entries: None,
        }
    }

    /// A tensor of these dimensions, with records at `place` if there is one.
    pub fn placed(dims: Option<Vec<Extent>>, place: Option<RecordPlace>) -> Self {
        match place {
            None => Self::same(dims),
            Some(place) => Self::records(dims, place),
        }
    }

    /// A list of sizes, or a single size if it is a scalar.
    pub fn sizes(entries: Vec<SizeEntry>, is_scalar: bool) -> Self {
        let dims = if is_scalar {
            Vec::new()
        } else {
            vec![Extent::known(entries.len() as u64)]
        };
        let batch = if entries.iter().all(SizeEntry::is_same) {
            Batch::Same
        } else {
            Batch::Sizes
        };
        Self {
            dims: Some(dims),
            batch,
            entries: (entries.len() <= MAX_ENTRIES).then_some(entries),
        }
    }

    pub fn rank(&self) -> Option<usize> {
        self.dims.as_ref().map(Vec::len)
    }

    pub fn place(&self) -> Option<&RecordPlace> {
        match &self.batch {
            Batch::Records(place) => Some(place),
            Batch::Same | Batch::Sizes => None,
        }
    }

    pub fn is_same(&self) -> bool {
        self.batch == Batch::Same
    }

    pub fn without_entries(&self) -> Self {
        Self {
            entries: None,
            ..self.clone()
        }
    }

    /// The elements of a list of sizes, even if only its length is known.
    pub fn list(&self) -> Option<Vec<SizeEntry>> {
        match (&self.entries, self.dims.as_deref()) {
            (Some(entries), _) => Some(entries.clone()),
            (None, Some([])) if self.is_same() => Some(vec![SizeEntry::Same]),
            (None, Some([length])) if self.is_same() => {
                let length = usize::try_from(length.size()?).ok()?;
                (length <= MAX_ENTRIES).then(|| vec![SizeEntry::Same; length])
            }
            (None, _) => None,
        }
    }

    /// The elements of a list; `None` unless all are known numbers.
    pub fn numbers(&self) -> Option<Vec<i64>> {
        let number = |entry: &SizeEntry| match entry {
            SizeEntry::Number(number) => Some(*number),
            SizeEntry::Extent(_) | SizeEntry::Same | SizeEntry::Mixed => None,
        };
        self.entries.as_ref()?.iter().map(number).collect()
    }

    pub fn number(&self) -> Option<i64> {
        match &*self.numbers()? {
            [number] => Some(*number),
            _ => None,
        }
    }

    /// The knowledge that holds for both tensors. `None` if they place the records differently.
    pub fn join(&self, other: &Self, symbols: &mut Symbols) -> Option<Self> {
        let batch = match (&self.batch, &other.batch) {
            (one, other) if one == other => one.clone(),
            _ => return None,
        };
        let entries = match (&self.entries, &other.entries) {
            (Some(one), Some(other)) if one.len() == other.len() => {
                let pairs = one.iter().zip(other);
                let joined = pairs.map(|(one, other)| match (one == other, one.is_same() && other.is_same()) {
                    (true, _) => one.clone(),
                    (false, true) => SizeEntry::Same,
                    (false, false) => SizeEntry::Mixed,
                });
                Some(joined.collect())
            }
            _ if batch == Batch::Sizes => return None,
            _ => None,
        };
        let dims = match (&self.dims, &other.dims) {
            (Some(one), Some(other)) if one.len() == other.len() => {
                let mut dims = Vec::new();
                for (one, other) in one.iter().zip(other) {
                    dims.push(match (one == other, one.has_batch() || other.has_batch()) {
                        (true, _) => one.clone(),
                        (false, false) => symbols.fresh(),
                        (false, true) => return None,
                    });
                }
                Some(dims)
            }
            _ => None,
        };
        Some(Self { dims, batch, entries })
    }
}

impl AbstractValue {
    pub fn join(&self, other: &Self, symbols: &mut Symbols) -> Option<Self> {
        match (self, other) {
            (Self::Tensor(one), Self::Tensor(other)) => one.join(other, symbols).map(Self::Tensor),
            (Self::Sequence(one), Self::Sequence(other)) => one.join(other, symbols).map(Self::Sequence),
            (Self::Items, Self::Items) => Some(Self::Items),
            (Self::Mixed(reason), _) | (_, Self::Mixed(reason)) => Some(Self::Mixed(Rc::clone(reason))),
            _ => None,
        }
    }
}
