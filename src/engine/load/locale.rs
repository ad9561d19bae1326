//! Substitutes for locales that models name and the system lacks.
//!
//! ONNX Runtime's StringNormalizer, part of every text export of scikit-learn, changes case by a
//! C++ locale: the one that the model names, or `en_US.UTF-8`. Minimal systems and images have
//! only `C.UTF-8`. That locale has the case rules of Unicode, which nearly all languages use. So
//! `C.UTF-8` replaces the locale of such a language where the system lacks it.
//!
//! The C++ library creates named locales with glibc's `__newlocale`. This executable exports a
//! function of that name. The dynamic linker prefers the symbols of an executable to those of
//! libraries, as it does for jemalloc's `malloc`. Three alternatives were rejected:
//! - A folder of locale files in `LOCPATH` hides the system's own locale archive. It would have
//!   to be protected from other users and visible in the sandbox of the preparing process.
//! - Writing another name into the model during preparation misses models that are served as they
//!   were uploaded.
//! - Locale files inside the executable depend on the version of glibc that reads them.
//!
//! Invariants: a locale that the system has is used unchanged. A locale of a language with its own
//! case rules is never substituted.

#![expect(
    unsafe_code,
    reason = "the function replaces one of the C library and calls another with the same arguments"
)]

use std::ffi::{CStr, c_char, c_int};

use libc::{LC_CTYPE_MASK, locale_t, newlocale};

/// Locales with Unicode's case rules, in the order in which they are tried.
const UNICODE: [&CStr; 2] = [c"C.UTF-8", c"en_US.UTF-8"];

/// Languages with their own case rules: the Turkic dotted and dotless i, Lithuanian accents.
const OWN_RULES: [&str; 6] = ["az", "crh", "ku", "lt", "tr", "tt"];

/// Creates the locale `name`, as glibc's function of this name does. If the system lacks `name`
/// and its language uses the case rules of Unicode, creates a locale with those rules.
///
/// # Safety
/// The caller meets the contract of `newlocale(3)`: `name` is a NUL-terminated text, `base` is a
/// locale or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __newlocale(mask: c_int, name: *const c_char, base: locale_t) -> locale_t {
    // SAFETY: the caller meets the contract. A call that fails does not change `base`.
    let made = unsafe { newlocale(mask, name, base) };
    if !made.is_null() || name.is_null() {
        return made;
    }
    // SAFETY: the caller passes a NUL-terminated text.
    let wanted = unsafe { CStr::from_ptr(name) };
    if !wanted.to_str().is_ok_and(has_unicode_case) {
        return made;
    }
    // The other categories remain those of `base`, or of the C locale if there is no base. In them
    // `C.UTF-8` is the same as the C locale.
    UNICODE
        .iter()
        // SAFETY: as above; the name is one of the constants.
        .map(|name| unsafe { newlocale(LC_CTYPE_MASK, name.as_ptr(), base) })
        .find(|made| !made.is_null())
        .unwrap_or(made)
}

/// Whether the locale `name` changes case by Unicode's default rules: `en_US`, `de_DE.UTF-8`,
/// `sr_RS.utf8@latin`, and `en-US`, which exports from Windows contain.
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
    fn locales_use_the_case_rules_of_unicode_unless_their_language_has_its_own() {
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
    fn a_missing_locale_is_substituted_unless_its_language_has_its_own_case_rules() {
        let made = |name: &CStr| {
            // SAFETY: the name is NUL-terminated, and null means that there is no base.
            let made = unsafe { __newlocale(1 << libc::LC_ALL, name.as_ptr(), std::ptr::null_mut()) };
            if !made.is_null() {
                // SAFETY: it was just created, and nothing else refers to it.
                unsafe { libc::freelocale(made) };
            }
            !made.is_null()
        };
        // Haitian Creole and Chuvash with a territory that does not exist: no system has them.
        for name in [c"ht_ZZ.UTF-8", c"cv-ZZ", c"C"] {
            assert!(made(name), "{name:?}");
        }
        for name in [c"tr_ZZ.UTF-8", c"ht_ZZ.ISO-8859-1", c"nonsense"] {
            assert!(!made(name), "{name:?}");
        }
    }
}
