#!/bin/sh
# A source of the backend is compiled for GPUs without a warning, and ptxas reports no local memory: a stack frame or a spill
# is a slow kernel that computes what it should. On sm_90 each kernel waits for the last launch before it touches memory, which
# no simulated device shows. ptxas.sh NVCC ROOT SOURCE FOLDER
nvcc=$1 root=$2 source=$3 out=$4/$(basename "$3")
# The most that a kernel of each source may have: registers, and bytes of shared memory beside what a launch asks for. 128
# registers are what two blocks of 256 threads leave each other.
case ${3##*/} in
  attention.cu | coded_linear_cuda.cu) registers=128 shared=4096 ;;
  random.cu | gemm.cu) registers=64 shared=0 ;;
  elementwise.cu) registers=64 shared=8192 ;;  # but for sums of columns, which have many rows on their way
  gather.cu) registers=64 shared=16384 ;;
  optim.cu) registers=96 shared=256 ;;
  reduce.cu) registers=64 shared=8192 ;;
  rows.cu) registers=128 shared=512 ;;
  kernels_cuda.cu) registers=128 shared=10496 ;;
  # Attention by tiles has its sums in registers, and kernels of short rows have the rows, in blocks of 128 threads: two of
  # them may have all that a thread can.
  flash_attention.cu) registers=255 shared=0 ;;
  f32_attention.cu) registers=255 shared=1024 ;;
  flash_attention_grad.cu) registers=255 shared=2048 ;;
  norms.cu) registers=255 shared=16384 ;;
  *) echo "FAILED: ${3##*/} has no budget in ptxas.sh" && exit 1 ;;
esac
keep=$out.keep failed=0
rm -rf "$keep"
mkdir -p "$keep"
"$nvcc" -std=c++20 --extended-lambda --expt-relaxed-constexpr -Werror all-warnings -Xptxas -v \
  -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=sm_90 -I"$root/.include" -c "$source" -o "$out.o" \
  --keep --keep-dir "$keep" > "$out.ptxas" 2>&1 || { cat "$out.ptxas"; rm -rf "$keep"; exit 1; }
awk -v source="${source##*/}" -v registers="$registers" -v shared="$shared" '
  /Function properties for/ { kernel = $NF; ++kernels }
  /bytes stack frame/ && ($1 > 0 || $5 > 0) {
    # The sine and cosine of f64 keep parts of the argument in an array. The gradients of attention have all their sums in
    # registers, and keep up to six numbers that they need once a tile elsewhere.
    if (kernel !~ /6normalIdE/ && (kernel !~ /5flash.*(dq|dkv)_kernel.*Bf16/ || $1 > 24 || $5 > 24)) { print "FAILED: " source ": " kernel ": " $0; wrong = 1 }
  }
  /Used [0-9]+ registers/ {
    if ($5 > most) most = $5
    if ($5 > registers && (source != "elementwise.cu" || kernel !~ /4cuda14columns_kernel/)) { print "FAILED: " source ": " kernel ": more than " registers " registers: " $0; wrong = 1 }
    if ($5 > 128 && kernel !~ /4cuda5flash|short_row_kernel|row_sums_kernel/) { print "FAILED: " source ": " kernel ": " $0; wrong = 1 }
    if (match($0, /[0-9]+ bytes smem/)) {
      bytes = substr($0, RSTART) + 0
      if (bytes > most_bytes) most_bytes = bytes
      if (bytes > shared) { print "FAILED: " source ": " kernel ": more than " shared " bytes shared: " $0; wrong = 1 }
    }
  }
  END {
    print source ": " kernels " kernels, at most " most + 0 " registers, " most_bytes + 0 " bytes of shared memory"
    if (kernels == 0) print "FAILED: " source ": ptxas reported nothing"
    exit wrong || kernels == 0
  }' "$out.ptxas" || failed=1
awk -v source="${source##*/}" '
  /\.entry/ { kernel = $NF; inside = 1; waits = 0; ++kernels }
  /griddepcontrol\.wait/ { waits = 1 }
  inside && !waits && $0 ~ /^[ \t]*(@!?%p[0-9]+ )?(ld|st|atom|red|cp\.async)[.]/ && $0 !~ /\.(param|shared|local)/ {
    print "FAILED: " source ": " kernel " touches memory before begin_kernel(): " $0; wrong = 1; inside = 0
  }
  /^}/ {
    if (inside && !waits) { print "FAILED: " source ": " kernel " has no begin_kernel()"; wrong = 1 }
    inside = 0
  }
  END { exit wrong || kernels == 0 }' "$keep"/*.compute_90.ptx || failed=1
rm -rf "$keep"
exit $failed
