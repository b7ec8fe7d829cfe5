"""The Triton kernel of PLD: one program a row, which ranks, sums and differentiates it in registers.

Symbols as in `losses.ranking`. All quantities are float32, so none may be a small difference of large ones, nor grow:

    X_k = e^{m_k} (1 + r_k)            m_k the largest logit left at place k, r_k >= 0 what the others add to it
    -log p_k = m_k - s_k + log(1 + r_k)
    D_k = Σ_{j<k} α_j / (1 + r_j) e^{m_k - m_j}
    gradient = e^{s_k - m_k} D_k - α_k (1 - p_k)

The 1 is the largest itself, so that r_k keeps the digits of a student that is sure; and so does 1 - p_k, which is
r_k / (1 + r_k) where the largest stands at place k. The m_k never rise with k: no exponent is above 0.
"""

# Triton compiles what follows; a type checker that takes it for Python is wrong about it.
# pyright: reportOperatorIssue=false, reportAssignmentType=false

import triton
import triton.language as tl

LOWEST = tl.constexpr(-(2 - 2**-23) * 2.0**127)  # the least float32 stands for -inf, which less itself would be NaN


@triton.jit
def ordered(bits, most: tl.constexpr):
    """From the bits of floats to integers of the same order, and back: `most` is the largest such integer."""
    return bits ^ ((bits >> 31) & most)


@triton.jit
def joined(top1, rest1, top2, rest2):
    """e^{top1} (1 + rest1) + e^{top2} (1 + rest2), again as top and rest; no logit is below LOWEST."""
    first = top1 >= top2
    top, low = tl.where(first, top1, top2), tl.where(first, top2, top1)
    rest, low_rest = tl.where(first, rest1, rest2), tl.where(first, rest2, rest1)
    return top, rest + (1 + low_rest) * tl.exp(low - top)


@triton.jit
def followed(top1, passed1, own1, top2, passed2, own2):
    """Two neighboring runs of places as one: its last m, the D of that place, and that place's own α / (1 + r)."""
    return top2, (passed1 + own1) * tl.exp(top2 - top1) + passed2, own2


@triton.jit
def log_one_plus(x):
    """log(1 + x), x >= 0, with all the digits of a small x."""
    y = 1 + x
    return tl.where(y == 1, x, tl.log(y) * (x / (y - 1)))


@triton.jit
def ranked(logits, column, classes, label):
    """The classes at each place of π*, and their logits but for the label's: one sort of key and class in one word.

    The keys ascend as logits descend; the label's is the least and the padding's the greatest. A tie is left to the
    class, so that the order is the same on every run.
    """
    size: tl.constexpr = logits.dtype.primitive_bitwidth
    bits_type: tl.constexpr = tl.int32 if size == 32 else tl.int16
    word_type: tl.constexpr = tl.int64 if size == 32 else tl.int32
    most: tl.constexpr = 0x7FFFFFFF if size == 32 else 0x7FFF
    bits = logits.to(bits_type, bitcast=True).to(tl.int32)
    keys = ~ordered(tl.where(bits == ~most, 0, bits), most)  # of the two zeros, one
    keys = tl.where(column < classes, tl.where(column == label, ~most, keys), most)
    words = (keys.to(word_type) << size) | column
    # Any order will do to start from, and this one moves nothing: what a thread has eight apart it gets side by side,
    # where sorting compares most.
    words = tl.sort(tl.reshape(tl.trans(tl.reshape(words, [8, words.shape[0] // 8])), words.shape))
    order, bits = (words & most).to(tl.int32), ordered(~(words >> size).to(tl.int32), most)
    return order, bits.to(bits_type).to(logits.dtype, bitcast=True).to(tl.float32)


@triton.jit
def pld_row(
    student, teacher, labels, losses, gradient, count,
    student_stride, teacher_stride, classes, ignore_index, temperature,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Loss of row `program_id(0)`, and its gradient over `count`, if given. Classes of a row lie side by side."""
    row = tl.program_id(0).to(tl.int64)
    student, teacher = student + row * student_stride, teacher + row * teacher_stride
    label = tl.load(labels + row).to(tl.int64)
    kept, known = label != ignore_index, (label >= 0) & (label < classes)
    column = tl.arange(0, BLOCK)
    inside = column < classes
    logits = tl.load(teacher + column, mask=inside, other=float("-inf"))
    order, t = ranked(logits, column, classes, label)
    t = tl.where(column == 0, tl.load(teacher + label, mask=known, other=float("-inf")).to(tl.float32), t)
    worth = tl.exp((tl.where(inside, t, float("-inf")) - tl.max(logits.to(tl.float32))) / temperature)
    alpha = worth / tl.sum(worth)

    s = tl.load(student + order, mask=inside, other=float("-inf")).to(tl.float32)
    finite = tl.where(s == float("-inf"), LOWEST, s)
    top, rest = tl.associative_scan((finite, tl.zeros_like(s)), 0, joined, reverse=True)
    share = tl.exp(s - top)
    others = tl.where(s == top, rest / (1 + rest), 1 - share / (1 + rest))
    cost = alpha * (top - s + log_one_plus(rest))
    _, passed, _ = tl.associative_scan((top, tl.zeros_like(s), alpha / (1 + rest)), 0, followed)
    slope = share * passed - alpha * others

    wrong = float("nan")  # a label that is no class: nobody may look, but it shows
    loss = tl.where(known, tl.sum(tl.where(alpha == 0, 0.0, cost)), wrong)
    tl.store(losses + row, tl.where(kept, loss, 0.0))
    if count is not None:
        slope *= 1 / tl.load(count).to(tl.float32)
    slope = tl.where(kept, tl.where(known, slope, wrong), 0.0)
    tl.store(gradient + row * classes + order, slope, mask=inside)
