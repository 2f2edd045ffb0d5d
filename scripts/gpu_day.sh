#!/usr/bin/env bash
# A day on a GPU in one command of at most ten minutes: is every operator right, how quick is it, what does seven minutes
# of training give. For a machine with torch 2.11, timm, lightning, h5py, onnx and Triton, and no network.
#
#     scripts/gpu_day.sh pack [DATA]     here, once: build/gpu_day gets the corpus of DATA (data/open_sounds) and the wheels
#     scripts/gpu_day.sh                 there: log.txt, gpu.md, *.csv, runs/ in $OUT, or in build/gpu_day/out
#     scripts/gpu_day.sh tiny            a rehearsal of that on the CPU, in some minutes
#
# PYTHON names the interpreter (python3). SECONDS_IN_ALL is what the whole may take, 570.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
PACK=build/gpu_day
OUT=${OUT:-$PACK/out}
IN_ALL=${SECONDS_IN_ALL:-570}
# What the training imports beyond those packages and what they bring
WHEELS="antlr4-python3-runtime hydra-core markdown-it-py mdurl omegaconf pycparser cffi pygments rich soundfile soxr torchaudio"

pack() {
    mkdir -p "$PACK/wheels"
    for name in $WHEELS; do # the versions of this environment
        version=$("$PYTHON" -c "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))" "$name")
        "$PYTHON" -m pip wheel --quiet --no-deps --wheel-dir "$PACK/wheels" "$name==$version"
    done
    "$PYTHON" scripts/gpu_day_corpus.py pack "${1:-data/open_sounds}" "$PACK/corpus" --megabytes "${MEGABYTES:-44}"
    du -sm "$PACK/wheels" "$PACK/corpus"
}

day() {
    local tiny=$1 size=() train_seconds minutes left
    mkdir -p "$OUT"
    rm -rf "$PACK/site" && mkdir -p "$PACK/site"
    for wheel in "$PACK"/wheels/*.whl; do # a wheel is a zip: no pip needed, nothing installed
        "$PYTHON" -m zipfile -e "$wheel" "$PACK/site"
    done
    export PYTHONPATH="$PWD:$PWD/$PACK/site" OUT DCLS_DATA="$PWD/$PACK/data"
    if [ "$tiny" = 1 ]; then size=(--tiny) minutes=1 train_seconds=30; else minutes=1.8 train_seconds=420; fi

    echo "== 1 of 3: are the operators right? (the corpus is unpacked meanwhile)"
    rm -rf "$DCLS_DATA"
    "$PYTHON" scripts/gpu_day_corpus.py unpack "$PACK/corpus" "$DCLS_DATA/open_sounds" &
    local unpacking=$! wrong=0
    "$PYTHON" benchmarks/gpu.py --parts check "${size[@]}" || wrong=1
    mv "$OUT/gpu.md" "$OUT/check.md"
    wait $unpacking

    echo "== 2 of 3: how quick are they?"
    "$PYTHON" benchmarks/gpu.py --parts operators kernel step --minutes $minutes "${size[@]}" || wrong=1

    left=$((IN_ALL - SECONDS))
    [ "$left" -lt "$train_seconds" ] && train_seconds=$left
    echo "== 3 of 3: training for $train_seconds s"
    # the tagger in the box, further, on stored teacher scores; timing chooses the operators unless one was wrong
    "$PYTHON" -c 'from audioset_dcls.commands.train import main; main()' \
        experiment=embedded model=checkpoint teacher=null logger=none name=gpu_day hydra.run.dir="$OUT/runs/gpu_day" \
        "data.train=[$DCLS_DATA/open_sounds/train.h5]" "data.weights=[1.0]" \
        "data.val=[$DCLS_DATA/open_sounds/validation.h5]" benchmark=$([ $wrong = 0 ] && echo true || echo false) \
        "+trainer.max_time={seconds:$train_seconds}" epochs=1000 decay_epochs=10 "${TRAIN[@]}"
    ls -la "$OUT" "$OUT/runs/gpu_day"
    echo "== $SECONDS s in all; $([ $wrong = 0 ] && echo 'every operator is right' || echo 'AN OPERATOR IS WRONG: see check.csv')"
    return $wrong
}

case ${1:-day} in
pack) pack "${2:-}" ;;
day) mkdir -p "$OUT" && TRAIN=() && day 0 2>&1 | tee "$OUT/log.txt" ;;
tiny)
    TRAIN=(trainer=cpu batch_size=4 data.batch_size=4 data.scenes_per_epoch=16 data.scene_seconds=1.0 log_every_n_steps=1 save_every_n_steps=2)
    mkdir -p "$OUT" && day 1 2>&1 | tee "$OUT/log.txt"
    ;;
*) sed -n '2,10s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
