#!/usr/bin/env bash
# Downloads what a container of the real image installs in tests, into $EROLITH_CACHE/churn: Debian packages with all that
# they need, so that those of the image are installed anew as in an upgrade, and Python wheels. About 20 s, 70 MB.
set -euo pipefail
# shellcheck source=setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

PACKAGES=(git less python3-pip)
WHEELS=(pandas==2.2.3 python-dateutil==2.9.0 pytz==2025.2 six==1.17.0 tzdata==2025.2)

download() {
    local packages
    mapfile -t packages < <(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
        --no-replaces --no-enhances "${PACKAGES[@]}" | grep '^[a-z0-9]' | sort -u)
    chmod 755 "$1"
    (cd "$1" && retry apt-get -qq -o APT::Sandbox::User=root download "${packages[@]}")
    retry python3 -m pip --quiet download --no-deps --only-binary :all: --python-version 3.11 --dest "$1" "${WHEELS[@]}"
}

need_root
need_packages python3 python3-pip
cached churn 1 download
echo "$EROLITH_CACHE/churn"
