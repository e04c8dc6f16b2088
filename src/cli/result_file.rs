//! The file of `bench --out`: what was there stays until the result is whole, and a run that fails or is killed leaves nothing behind.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::Failure;

/// Where a result goes.
#[derive(Debug)]
pub(super) struct OutFile {
    path: PathBuf,
    /// The name under which it is written first; none for what is no file, like a pipe.
    beside: Option<PathBuf>,
}

fn failed(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure(format!("{}: {error}", path.display()))
}

impl OutFile {
    /// Looks whether the result can be written there, before anything is measured. Leaves everything as it was.
    pub(super) fn check(path: &Path) -> Result<Self, Failure> {
        // A link stays one.
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        match fs::metadata(&real) {
            Ok(there) if there.is_dir() => return Err(failed(path, &"it is a directory")),
            Ok(there) if !there.is_file() => return Ok(Self { path: real, beside: None }),
            _ => {}
        }
        let beside = real.with_added_extension(format!("{}.new", std::process::id()));
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&beside)
            .and_then(|file| {
                drop(file);
                fs::remove_file(&beside)
            })
            .map_err(|error| failed(path, &error))?;
        Ok(Self { path: real, beside: Some(beside) })
    }

    /// Writes the result.
    pub(super) fn write(&self, text: &str) -> Result<(), Failure> {
        let Some(beside) = &self.beside else {
            let written = OpenOptions::new()
                .write(true)
                .open(&self.path)
                .and_then(|mut to| to.write_all(text.as_bytes()));
            return written.map_err(|error| failed(&self.path, &error));
        };
        let written = File::create(beside)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(beside, &self.path));
        written.map_err(|error| {
            // A part of a result is none. It may not even be there.
            let _ = fs::remove_file(beside);
            failed(&self.path, &error)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_there_before_the_result_is_and_links_stay_links() {
        let folder = std::env::temp_dir().join(format!("millstream-out-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let names = || {
            let mut names: Vec<_> =
                fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let out = OutFile::check(&folder.join("r.json")).unwrap();
        assert!(names().is_empty());
        out.write("first").unwrap();
        std::os::unix::fs::symlink(folder.join("r.json"), folder.join("link.json")).unwrap();
        OutFile::check(&folder.join("link.json")).unwrap().write("second").unwrap();
        assert_eq!(fs::read_to_string(folder.join("r.json")).unwrap(), "second");
        assert!(folder.join("link.json").is_symlink());
        assert_eq!(names(), ["link.json", "r.json"]);
        assert!(OutFile::check(&folder).is_err(), "a directory");
        assert!(OutFile::check(&folder.join("none/r.json")).is_err());
        let null = OutFile::check(Path::new("/dev/null")).unwrap();
        null.write("lost").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file(), "it stays what it is");
        fs::remove_dir_all(&folder).unwrap();
    }
}
