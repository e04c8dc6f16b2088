//! The output file of `bench --out`. An existing file is replaced only by a complete result. A run that fails
//! or is killed leaves no partial file.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::Failure;

/// The destination of a result.
#[derive(Debug)]
pub(super) struct OutFile {
    path: PathBuf,
    /// The temporary file that is written first, then renamed to `path`. `None` if `path` is not a regular
    /// file, such as a pipe.
    beside: Option<PathBuf>,
}

fn failed(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure(format!("{}: {error}", path.display()))
}

impl OutFile {
    /// Checks that the result can be written, before anything is measured. Leaves the directory unchanged.
    pub(super) fn check(path: &Path) -> Result<Self, Failure> {
        // Write through a symbolic link instead of replacing it.
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        match fs::metadata(&real) {
            Ok(there) if there.is_dir() => return Err(failed(path, &"is a directory; name a file")),
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

    /// Writes the result, replacing an existing file.
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
            // Remove the partial result. It may not even exist, so an error does not matter.
            let _ = fs::remove_file(beside);
            failed(&self.path, &error)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_exists_before_the_result_and_links_stay_links() {
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
        assert!(!fs::metadata("/dev/null").unwrap().is_file(), "the device is not replaced");
        fs::remove_dir_all(&folder).unwrap();
    }
}
