//! A new migration is a new file: the macro that embeds them does not see it by itself.

fn main() {
    println!("cargo::rerun-if-changed=../schemas/migrations");
}
