//! Reads the key of pre-signed requests from the file of the setting.

use crate::access::SigningKey;
use crate::base::setting::Unworkable;
use crate::shard::Settings;
use crate::tls::files;

/// The key of the setting.
pub const KEY_FILE: &str = "zaqar_signing_key_file";

/// The bits of a file's mode that let others read it.
const READABLE_BY_OTHERS: u32 = 0o044;

/// Reads the key, if the settings name its file, and puts it into the settings. Returns a warning if others may read the file.
pub fn read(settings: &mut Settings) -> Result<Option<String>, Unworkable> {
    let operation = &mut settings.core.operation;
    operation.signing_key = None;
    let Some(path) = &operation.zaqar_signing_key_file else { return Ok(None) };
    let content = files::read(KEY_FILE, path)?;
    let secret = content.bytes.trim_ascii();
    let key = SigningKey::new(secret);
    let shown = path.display();
    operation.signing_key = Some(key.map_err(|why| Unworkable(format!("{KEY_FILE}: {shown}: {why}")))?);
    let is_readable = content.mode & READABLE_BY_OTHERS != 0;
    Ok(is_readable
        .then(|| format!("{KEY_FILE}: {shown}: others can read it, and so sign requests: chmod 600 {shown}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_missing_or_short_is_refused_with_the_setting() {
        let path = std::env::temp_dir().join(format!("millstream-signing-{}", std::process::id()));
        let mut settings = Settings::default();
        assert_eq!(read(&mut settings), Ok(None));
        settings.core.operation.zaqar_signing_key_file = Some(path.clone());
        assert!(read(&mut settings).unwrap_err().0.starts_with("zaqar_signing_key_file: "));
        std::fs::write(&path, "short\n").unwrap();
        let why = read(&mut settings).unwrap_err().0;
        assert!(why.contains("has 5 bytes") && settings.core.operation.signing_key.is_none(), "{why}");
        std::fs::write(&path, "a key of some length\n").unwrap();
        assert!(read(&mut settings).is_ok());
        assert_eq!(
            settings.core.operation.signing_key,
            Some(SigningKey::new(b"a key of some length").unwrap())
        );
        std::fs::remove_file(&path).unwrap();
    }
}
