//! The opaque name of a model for the container (MM-6), which must not interpret it or rely on it.

use blake3::Hasher;

/// Bytes of a name. In hexadecimal it is as long as the names that containers see on SageMaker.
const BYTES: usize = 16;

/// The name of the model at `url`, equal on all instances.
pub(super) fn opaque(url: &str) -> String {
    let mut bytes = [0; BYTES];
    Hasher::new().update(url.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_alphanumeric_and_distinct() {
        let name = opaque("s3://bucket/team/a b.tar.gz");
        assert_eq!(name.len(), 2 * BYTES);
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_ne!(name, opaque("s3://bucket/team/a b.tar.g"));
        assert_eq!(name, opaque("s3://bucket/team/a b.tar.gz"));
    }
}
