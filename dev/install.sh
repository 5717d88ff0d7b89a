#!/bin/sh
# Sets up what this checkout needs and the machine lacks: Debian packages, then Kafka's jars in .tidewatch/kafka/lib.
# Says nothing when nothing is missing; safe to run any number of times.
#
#   dev/install.sh [build|test]     test additionally wants rustfmt, clippy, rsyslog, kcat and zstd
set -eu

purpose=${1:-build}
root=$(cd "$(dirname "$0")/.." && pwd)

say() { printf '==> %s\n' "$*" >&2; }
fail() {
    printf 'error: %s\n' "$1" >&2
    shift
    for line in "$@"; do printf '       %s\n' "$line" >&2; done
    exit 1
}
has() { command -v "$1" >/dev/null 2>&1; }

# --- Debian packages ------------------------------------------------------------------------------------------------

has_postgres() {
    has initdb && has postgres && return 0
    for initdb in /usr/lib/postgresql/*/bin/initdb; do
        [ -x "$initdb" ] && return 0
    done
    return 1
}

packages=
want() { packages="${packages:+$packages }$1"; }

{ has cc && has c++ && has make; } || want build-essential
has pkg-config || want pkg-config
has setpriv || want util-linux
has curl || want curl
has java || want default-jre-headless
[ -f "$root/.tidewatch/kafka/lib/pom.xml" ] || has mvn || want maven
has_postgres || want postgresql
if [ "$purpose" = test ]; then
    { has rsyslogd || [ -x /usr/sbin/rsyslogd ]; } || want rsyslog
    has kcat || want kcat
    has zstd || want zstd
fi

# Debian's postgresql package creates and starts a cluster on 5432 as it is installed. The local stack has a cluster of
# its own, so that one is asked not to be made; the request is taken back afterwards.
install_packages() {
    as_root=$1
    apt="$as_root env DEBIAN_FRONTEND=noninteractive apt-get"
    settings=/etc/postgresql-common/createcluster.conf
    $apt update -qq || return 1
    case " $packages " in
    *" postgresql "*)
        $apt install -y -qq --no-install-recommends postgresql-common || return 1
        $as_root pg_conftool "$settings" set create_main_cluster false || return 1
        ;;
    esac
    status=0
    # shellcheck disable=SC2086 # a list of words
    $apt install -y -qq --no-install-recommends $packages || status=$?
    case " $packages " in
    *" postgresql "*) $as_root pg_conftool "$settings" remove create_main_cluster || true ;;
    esac
    return "$status"
}

if [ -n "$packages" ]; then
    if ! has apt-get; then
        fail "missing on this machine, by their Debian names: $packages" \
            "Install them with this system's package manager, then run the same command again."
    elif [ "$(id -u)" = 0 ]; then
        as_root=
    elif has sudo && sudo -n true 2>/dev/null; then
        as_root=sudo
    else
        fail "packages are missing and this user may not install them. Run this line, then the same command again:" \
            "sudo apt-get install --no-install-recommends $packages"
    fi
    say "installing Debian packages: $packages"
    install_packages "$as_root" >&2 || fail "apt-get could not install: $packages"
fi

# --- Rust -----------------------------------------------------------------------------------------------------------

has cargo || fail "no Rust toolchain found (cargo is not on PATH)" "Install one from https://rustup.rs, then open a new shell."
wanted=$(sed -n 's/^rust-version = "\([0-9.]*\)"$/\1/p' "$root/Cargo.toml")
found=$(cd "$root" && rustc --version | sed -n 's/^rustc \([0-9]*\.[0-9]*\).*/\1/p')
older=$(printf '%s\n%s\n' "$wanted" "${found:-0.0}" | sort -V | head -n 1)
[ "$older" = "$wanted" ] || fail "Rust $wanted or newer is needed; this is ${found:-of an unknown version}" "With rustup: rustup update stable"
if [ "$purpose" = test ]; then
    for component in fmt clippy; do
        cargo "$component" --version >/dev/null 2>&1 ||
            fail "cargo $component is missing" "With rustup: rustup component add rustfmt clippy"
    done
fi

# --- Kafka ----------------------------------------------------------------------------------------------------------

# The pom is kept beside the jars it named: jars of another pom are fetched anew.
kafka="$root/.tidewatch/kafka"
if ! cmp -s "$root/dev/kafka/pom.xml" "$kafka/lib/pom.xml"; then
    has mvn || fail "Kafka's jars are to be fetched and Maven (mvn) is missing"
    mkdir -p "$kafka"
    say "fetching Kafka's jars through Maven into .tidewatch/kafka/lib (about 45 MB)"
    new=$(mktemp -d "$kafka/new.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    chmod 755 "$new"
    mvn -q -B -Dstyle.color=never -f "$root/dev/kafka/pom.xml" dependency:copy-dependencies \
        -DincludeScope=runtime "-DoutputDirectory=$new" >&2 || fail "Maven could not fetch Kafka's jars (see above)"
    cp "$root/dev/kafka/pom.xml" "$new/pom.xml"
    # Moved into place whole. Of two runs at once one finds the other's jars there, which are the same.
    [ ! -e "$kafka/lib" ] || mv "$kafka/lib" "$new/old" 2>/dev/null || true
    mv -T "$new" "$kafka/lib" 2>/dev/null || cmp -s "$new/pom.xml" "$kafka/lib/pom.xml" ||
        fail "could not move Kafka's jars to $kafka/lib"
    rm -rf "$kafka/lib/old"
fi
