//! Writes the wire format of Protocol Buffers.
//!
//! A message is a sequence of fields in any order, so the writer only appends. It checks nothing,
//! because a test must be able to write messages that no library would.

/// A message under construction.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Message(Vec<u8>);

impl Message {
    /// Appends a varint field. Negative numbers take ten bytes, as the format requires.
    pub fn int(mut self, field: u64, value: i64) -> Self {
        self.varint(field << 3);
        self.varint(value as u64);
        self
    }

    /// Appends a field of four bytes.
    pub fn float(mut self, field: u64, value: f32) -> Self {
        self.varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Appends a field of text, bytes, or packed numbers.
    pub fn bytes(mut self, field: u64, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    pub fn message(self, field: u64, value: &Message) -> Self {
        self.bytes(field, &value.0)
    }

    /// Appends a packed repeated field of integers.
    pub fn ints(self, field: u64, values: impl IntoIterator<Item = i64>) -> Self {
        let mut packed = Self::default();
        for value in values {
            packed.varint(value as u64);
        }
        self.bytes(field, packed.0)
    }

    /// Appends a packed repeated field of floats.
    pub fn floats(self, field: u64, values: impl IntoIterator<Item = f32>) -> Self {
        let packed: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        self.bytes(field, packed)
    }

    /// Appends raw bytes, which need not be a field.
    pub fn raw(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(bytes.as_ref());
        self
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}
