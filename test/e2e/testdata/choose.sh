# choose.sh: installs with the trust domain written down, as docs/ca-runbook.md has it
# before a CA is plugged in.
set -eu
cp -r "$REPO/build/manifests" chosen
sed -i 's/^# trust-domain:/trust-domain:/' chosen/base/settings/citadel.yaml
grep -qx 'trust-domain: cluster.local' chosen/base/settings/citadel.yaml
MANIFESTS=$PWD/chosen "$REPO/hack/install"
