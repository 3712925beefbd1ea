#!/bin/sh
# Install the Debian packages that tests and lint need, where that is allowed; say what is missing where it is not.
set -eu

has() {
    command -v "$1" >/dev/null || ls /usr/lib/postgresql/*/bin/"$1" /usr/sbin/"$1" >/dev/null 2>&1
}

# Of the Python that is used: Debian's has them in a package of its own.
has_headers() {
    test -f "$(${PYTHON:-python3} -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h"
}

missing=
has chromium || missing="$missing chromium"
has redis-server || missing="$missing redis-server"
has initdb || missing="$missing postgresql"
has nginx || missing="$missing nginx"
has haproxy || missing="$missing haproxy"
has caddy || missing="$missing caddy"
has squid || missing="$missing squid"
has varnishd || missing="$missing varnish"
has firefox-esr || missing="$missing firefox-esr"
has WebKitWebDriver || missing="$missing webkit2gtk-driver"
has Xvfb || missing="$missing xvfb"
has curl || missing="$missing curl"
has jq || missing="$missing jq"
has openssl || missing="$missing openssl"
has npm || missing="$missing nodejs npm"
has cc || missing="$missing gcc libc6-dev"
has_headers || missing="$missing python3-dev"
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "tests/support/setup.sh: missing:$missing; install it (there is no apt-get here), or its tests cannot run" >&2
    exit 0
elif [ "$(id -u)" -eq 0 ]; then
    as_root=
elif sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    echo "tests/support/setup.sh: missing:$missing; its tests cannot run before: sudo apt-get install$missing" >&2
    exit 0
fi

# Debian starts each server that it installs, now and at each boot, on ports that somebody may want. Tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap '$as_root rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null
    $as_root chmod 755 $policy
fi
$as_root apt-get update -qq &&
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
    echo "tests/support/setup.sh: missing:$missing; apt-get could not install it, and its tests cannot run" >&2
for service in $missing; do
    $as_root systemctl disable --quiet "$service" 2>/dev/null || true # most are no services; a container has no systemd
done
