//! Sums up by how many bytes constants of narrow types grow if they become float32.

/// Bytes by which constants grow, for floats and for integers.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct NarrowConstants {
    floats: u64,
    integers: u64,
}

impl NarrowConstants {
    /// Adds a constant of this type (`TensorProto.DataType`) whose elements take `bytes` bytes.
    pub(super) fn add(&mut self, data_type: u64, bytes: u64) {
        let (sum, growth) = match data_type {
            // float16, bfloat16
            10 | 16 => (&mut self.floats, 1),
            // float8, float4
            17..=20 => (&mut self.floats, 3),
            23 => (&mut self.floats, 7),
            // uint8, int8
            2 | 3 => (&mut self.integers, 3),
            // uint16, int16
            4 | 5 => (&mut self.integers, 1),
            // uint4, int4
            21 | 22 => (&mut self.integers, 7),
            _ => return,
        };
        *sum = sum.saturating_add(bytes.saturating_mul(growth));
    }

    /// Returns the total growth in bytes, in a graph with or without `Cast` operators.
    pub(super) fn widened(self, has_casts: bool) -> u64 {
        if has_casts {
            self.floats.saturating_add(self.integers)
        } else {
            self.floats
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_grow_only_in_graphs_with_casts() {
        let mut narrow = NarrowConstants::default();
        for data_type in [10, 3, 1, 7, 99] {
            narrow.add(data_type, 100);
        }
        assert_eq!((narrow.widened(false), narrow.widened(true)), (100, 400));
        narrow.add(22, u64::MAX);
        assert_eq!(narrow.widened(true), u64::MAX);
    }
}
