#!/bin/sh
# Lint and type check of the page's JavaScript. Where they cannot be had, say so; in CI that is an error.
set -eu
cd "$(dirname "$0")"

unchecked() {
    echo "tests/web/javascript/check.sh: the page's JavaScript was NOT checked: $1" >&2
    [ "${CI:-}" != true ]
    exit
}

command -v npm >/dev/null || unchecked "there is no npm here; on Debian: apt-get install npm"
if [ ! -e node_modules/installed ] || [ package.json -nt node_modules/installed ]; then
    echo "installing the page's linter and type checker (once) ..."
    npm install --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null ||
        unchecked "npm could not install what package.json names"
    touch node_modules/installed
fi
npm run --silent lint
npm run --silent types
