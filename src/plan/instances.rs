//! Memory and cores of common instance types. Their prices differ by region and change, so only
//! the user gives prices.

use std::fmt;

/// An instance type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceType {
    pub name: String,
    /// Nominal memory, in bytes.
    pub memory: u64,
    pub cores: u32,
}

impl fmt::Display for InstanceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Sizes with their cores.
type Sizes = &'static [(&'static str, u32)];

const AWS: Sizes = &[
    ("large", 2),
    ("xlarge", 4),
    ("2xlarge", 8),
    ("4xlarge", 16),
    ("8xlarge", 32),
    ("12xlarge", 48),
    ("16xlarge", 64),
];

/// Instances of the fifth generation for computing have other sizes.
const AWS_C5: Sizes = &[
    ("large", 2),
    ("xlarge", 4),
    ("2xlarge", 8),
    ("4xlarge", 16),
    ("9xlarge", 36),
    ("12xlarge", 48),
    ("18xlarge", 72),
];

const GOOGLE: Sizes = &[("2", 2), ("4", 4), ("8", 8), ("16", 16), ("32", 32)];

const AZURE: Sizes = &[("2", 2), ("4", 4), ("8", 8), ("16", 16), ("32", 32)];

/// Families: the text before and after a size, the sizes, and the memory for each core in GiB.
const FAMILIES: [(&str, &str, Sizes, u64); 20] = [
    ("c5.", "", AWS_C5, 2),
    ("c6i.", "", AWS, 2),
    ("c6g.", "", AWS, 2),
    ("c7i.", "", AWS, 2),
    ("c7g.", "", AWS, 2),
    ("m5.", "", AWS, 4),
    ("m6i.", "", AWS, 4),
    ("m6g.", "", AWS, 4),
    ("m7i.", "", AWS, 4),
    ("m7g.", "", AWS, 4),
    ("r5.", "", AWS, 8),
    ("r6i.", "", AWS, 8),
    ("r6g.", "", AWS, 8),
    ("r7i.", "", AWS, 8),
    ("r7g.", "", AWS, 8),
    ("e2-standard-", "", GOOGLE, 4),
    ("n2-standard-", "", GOOGLE, 4),
    ("n2-highmem-", "", GOOGLE, 8),
    ("Standard_D", "s_v5", AZURE, 4),
    ("Standard_E", "s_v5", AZURE, 8),
];

/// The instance types of the table.
pub fn known() -> impl Iterator<Item = InstanceType> {
    FAMILIES.into_iter().flat_map(|(before, after, sizes, gibibytes)| {
        sizes.iter().map(move |(size, cores)| InstanceType {
            name: format!("{before}{size}{after}"),
            memory: (u64::from(*cores) * gibibytes) << 30,
            cores: *cores,
        })
    })
}

impl InstanceType {
    /// The type of this name; SageMaker's names begin with `ml.`.
    pub fn find(name: &str) -> Option<Self> {
        let plain = name.strip_prefix("ml.").unwrap_or(name);
        let found = known().find(|known| known.name == plain)?;
        Some(Self {
            name: name.to_owned(),
            ..found
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_the_memory_and_the_cores_of_their_data_sheets() {
        let table = [
            ("m5.large", 8, 2),
            ("ml.m5.xlarge", 16, 4),
            ("c5.9xlarge", 72, 36),
            ("c7g.16xlarge", 128, 64),
            ("r5.xlarge", 32, 4),
            ("r6i.12xlarge", 384, 48),
            ("n2-highmem-8", 64, 8),
            ("Standard_D4s_v5", 16, 4),
        ];
        for (name, gibibytes, cores) in table {
            let found = InstanceType::find(name).unwrap();
            assert_eq!((found.memory >> 30, found.cores), (gibibytes, cores), "{name}");
            assert_eq!(found.name, name);
        }
        assert_eq!(InstanceType::find("m5"), None);
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<String> = known().map(|known| known.name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
