#!/bin/sh
# Makes every secret that docker-compose.yml names and that is not there yet. What is there stays: run it as often as you like.
#
# Docker mounts a secret's file with the mode that it has here, and a container's user is not yours: so each file may be read
# by all, and the folder may be entered by nobody but you.
set -eu
folder=deploy/compose/secrets
cd "$(dirname "$0")/../.."
umask 022
mkdir -p "$folder"
chmod 700 "$folder"
sed -n "s|^ *file: \./$folder/||p" docker-compose.yml | while read -r name; do
    [ -s "$folder/$name" ] && continue
    case $name in
    callback) printf 'whsec_%s' "$(head -c 32 /dev/urandom | base64)" ;;
    *) head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n' ;;
    esac >"$folder/.new"
    mv "$folder/.new" "$folder/$name"
done
