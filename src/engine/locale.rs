//! Locales that models name and slim systems lack.
//!
//! ONNX Runtime's StringNormalizer, which is part of every text export of scikit-learn, changes case by a C++ locale: the
//! one that the model names, else `en_US.UTF-8`. Slim systems and images have `C.UTF-8` alone. Its case rules are those
//! of Unicode, and so are those of nearly all languages: a name that the system lacks stands for it here.
//!
//! The C++ library makes named locales by glibc's `__newlocale`. This executable exports a function of that name, and the
//! dynamic linker prefers an executable's symbols to those of libraries, as it does for jemalloc's `malloc`. Three other
//! ways were weighed:
//! - A folder of locale files that `LOCPATH` names hides the system's own archive of locales, must be kept from
//!   strangers, and must stay visible in the sandbox of the preparing process.
//! - Another name written into the model while it is prepared leaves out models that are served as they were uploaded.
//! - Locale files inside the executable depend on the version of glibc that reads them.
//!
//! What always holds: a locale that the system has is used as it is, and languages with case rules of their own never
//! stand for another.

#![expect(
    unsafe_code,
    reason = "the function replaces one of the C library and calls another one with the same arguments"
)]

use std::ffi::{CStr, c_char, c_int};

use libc::{LC_CTYPE_MASK, locale_t, newlocale};

/// Locales with Unicode's case rules, in the order in which they are tried.
const UNICODE: [&CStr; 2] = [c"C.UTF-8", c"en_US.UTF-8"];

/// Languages whose letters change case by rules of their own: the Turkic i with and without a dot, Lithuanian accents.
const OWN_RULES: [&str; 6] = ["az", "crh", "ku", "lt", "tr", "tt"];

/// Makes the locale `name` as glibc's function of this name does, and one with Unicode's case rules where the system lacks
/// `name` and those are its rules.
///
/// # Safety
/// The caller keeps the contract of `newlocale(3)`: `name` is a NUL-terminated text, `base` a locale or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __newlocale(mask: c_int, name: *const c_char, base: locale_t) -> locale_t {
    // SAFETY: the arguments are the caller's, who keeps the contract. A call that fails leaves `base` as it was.
    let made = unsafe { newlocale(mask, name, base) };
    if !made.is_null() || name.is_null() {
        return made;
    }
    // SAFETY: the caller passes a NUL-terminated text.
    let wanted = unsafe { CStr::from_ptr(name) };
    if !wanted.to_str().is_ok_and(has_unicode_case) {
        return made;
    }
    // The other categories stay those of `base`, or of the C locale without one. `C.UTF-8` agrees with that.
    UNICODE
        .iter()
        // SAFETY: as above, with a name of our own.
        .map(|name| unsafe { newlocale(LC_CTYPE_MASK, name.as_ptr(), base) })
        .find(|made| !made.is_null())
        .unwrap_or(made)
}

/// Whether the locale `name` changes case as Unicode does by default: `en_US`, `de_DE.UTF-8`, `sr_RS.utf8@latin`, and
/// `en-US`, which exports from Windows hold.
fn has_unicode_case(name: &str) -> bool {
    let (name, modifier) = name.split_once('@').unwrap_or((name, "none"));
    let (name, codeset) = name.split_once('.').unwrap_or((name, "UTF-8"));
    let (language, territory) = name.split_once(['_', '-']).unwrap_or((name, "ZZ"));
    let is_utf8 = codeset.eq_ignore_ascii_case("UTF-8") || codeset.eq_ignore_ascii_case("UTF8");
    let is_language = (2..=3).contains(&language.len()) && language.bytes().all(|byte| byte.is_ascii_lowercase());
    let is_territory = (2..=3).contains(&territory.len()) && territory.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let is_modifier = !modifier.is_empty() && modifier.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_utf8 && is_language && is_territory && is_modifier && !OWN_RULES.contains(&language)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locale_without_case_rules_of_its_own_has_those_of_unicode() {
        let table = [
            ("en_US.UTF-8", true),
            ("en_US", true),
            ("en-US", true),
            ("de", true),
            ("es_419.utf8", true),
            ("sr_RS.UTF-8@latin", true),
            ("tr_TR.UTF-8", false),
            ("tr", false),
            ("az_AZ.UTF-8", false),
            ("lt_LT", false),
            ("de_DE.ISO-8859-1", false),
            ("C", false),
            ("", false),
            ("nonsense", false),
            ("../../tmp/de", false),
            ("de_DE.UTF-8@", false),
            ("de_D", false),
            ("DE_de", false),
        ];
        for (name, expected) in table {
            assert_eq!(has_unicode_case(name), expected, "{name}");
        }
    }

    #[test]
    fn a_language_that_the_system_lacks_has_a_locale_and_one_with_rules_of_its_own_has_none() {
        let made = |name: &CStr| {
            // SAFETY: the name is NUL-terminated, and null is no base.
            let made = unsafe { __newlocale(1 << libc::LC_ALL, name.as_ptr(), std::ptr::null_mut()) };
            if !made.is_null() {
                // SAFETY: it was just made, and nothing else holds it.
                unsafe { libc::freelocale(made) };
            }
            !made.is_null()
        };
        // Haitian Creole and Chuvash as spoken nowhere: no system has them.
        for name in [c"ht_ZZ.UTF-8", c"cv-ZZ", c"C"] {
            assert!(made(name), "{name:?}");
        }
        for name in [c"tr_ZZ.UTF-8", c"ht_ZZ.ISO-8859-1", c"nonsense"] {
            assert!(!made(name), "{name:?}");
        }
    }
}
