#!/bin/sh
# A page's program prints what the page shows. usage: page.sh PAGE PROGRAM
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
awk -v output=1 -f "$(dirname "$0")/document.awk" "$1" >"$dir/shown" && cd "$dir" && "$2" >printed && diff shown printed
