//! Has cargo embed a migration that was added without any other change.

fn main() {
    println!("cargo::rerun-if-changed=migrations");
}
