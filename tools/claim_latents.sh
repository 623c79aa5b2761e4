#!/usr/bin/env bash
# claim_latents.sh BIN FOLDER: latents of all training sets of the claim, once: each data set whole and without shares of its
# degraded tracks (QAMDT_FILTERED=0.33,0.66,1 says which shares). What is there is not made again. CLAIM_LATENTS: more
# settings, e.g. "optim.epochs=2".
set -euo pipefail
bin=$1 folder=$2 filtered=${QAMDT_FILTERED:-0.33,0.66,1}
small="mdt.dim=64 mdt.depth=2 mdt.decoder_depth=0 evaluate.every=null generate.every=null optim.epochs=1"
for dset in claim claim_95; do
  for share in 0 ${filtered//,/ }; do
    cache=$folder/$dset-$share
    test ! -e "$cache/done" || continue
    filter="dataset.train.filter_below=${QAMDT_BELOW:-4.1} dataset.train.filter_share=$share"
    # shellcheck disable=SC2086
    "$bin/dora" run solver=qamdt/playground dset=$dset cache.path="$cache" cache.write=true $small $filter ${CLAIM_LATENTS:-}
    touch "$cache/done"
  done
done
