"""The losses once more, in float64 and by other means than the library's: what its numbers are measured against.

`plackett_luce` goes through a ranking place by place in Python floats. The logit losses are the textbook formulas on
probabilities, fit for tame logits only. `listing` is the arithmetic of the PLD paper's Appendix C, traps included.
"""

import math

import torch


def ranking_of(teacher, label):
    """π*: the label, then the others by descending logit, the lower index first among equals."""
    others = [c for c in range(len(teacher)) if c != label]
    return [label, *sorted(others, key=lambda c: (-teacher[c], c))]


def softmax(logits):
    top = max(logits)
    worths = [math.exp(z - top) for z in logits]
    total = math.fsum(worths)
    return [w / total for w in worths]


def definition(student, ranking, weights):
    """One row by the definition, O(C²): loss Σ α_k (log Σ_{l>=k} exp s_l - s_k), gradient Σ α_k (σ_k - e_k)."""
    loss, gradient = [], [[-a] for a in weights]
    s = [student[c] for c in ranking]
    for k, alpha in enumerate(weights):
        left = softmax(s[k:])
        loss.append(-alpha * math.log(left[0]))
        for i, probability in enumerate(left, start=k):
            gradient[i].append(alpha * probability)
    by_class = [0.0] * len(s)
    for c, terms in zip(ranking, gradient, strict=True):
        by_class[c] = math.fsum(terms)
    return math.fsum(loss), by_class


def plackett_luce_row(student, ranking, weights):
    """One row in O(C): X_k from the last place up as (max, sum); B_k = B_{k-1} X_k / X_{k-1} + α_k from the first."""
    s = [student[c] for c in ranking]
    log_left = _from_last(s)
    loss, gradient, b = [], [0.0] * len(s), 0.0
    for k, alpha in enumerate(weights):
        if k and b:
            b *= math.exp(log_left[k] - log_left[k - 1])
        b += alpha
        if alpha:
            loss.append(alpha * (log_left[k] - s[k]))
        gradient[ranking[k]] = (b * math.exp(s[k] - log_left[k]) if s[k] > -math.inf else 0.0) - alpha
    return math.fsum(loss), gradient


def plackett_luce(student, ranking, weights):
    """Rows: (N,) losses and (N, C) gradients of their sum, float64."""
    rows = zip(student.double().tolist(), ranking, weights, strict=True)
    losses, gradients = zip(*(plackett_luce_row(s, r, w) for s, r, w in rows), strict=True)
    return torch.tensor(losses, dtype=torch.float64), torch.tensor(gradients, dtype=torch.float64)


def pld(student, teacher, labels, temperature=1.0):
    rankings, weights = [], []
    for t, y in zip(teacher.double().tolist(), labels.tolist(), strict=True):
        rankings.append(ranking_of(t, y))
        q = softmax([z / temperature for z in t])
        weights.append([q[c] for c in rankings[-1]])
    return plackett_luce(student, rankings, weights)


def _from_last(z):
    """log Σ_{l>=k} e^{z_l} for every k."""
    log_left, top, total = [0.0] * len(z), -math.inf, 0.0
    for k in reversed(range(len(z))):
        if z[k] > top:
            total, top = total * math.exp(top - z[k]) + 1.0, z[k]
        elif z[k] > -math.inf:
            total += math.exp(z[k] - top)
        log_left[k] = top + math.log(total) if total else -math.inf
    return log_left


def plackett_luce_kl_row(student, teacher, ranking, weights, temperature):
    """One row in O(C), as the definition's U_k / T_k - log T_k + log S_k, the first carried from the last up."""
    s, t = ([z[c] / temperature for c in ranking] for z in (student, teacher))
    log_s, log_t = _from_last(s), _from_last(t)
    costs, mean = [], 0.0
    for k in reversed(range(len(s))):
        q = math.exp(t[k] - log_t[k]) if t[k] > -math.inf else 0.0
        mean = (q * (t[k] - s[k]) if q else 0.0) + (1 - q) * mean
        costs.append(weights[k] * (mean - log_t[k] + log_s[k]) if weights[k] and log_t[k] > -math.inf else 0.0)
    left = [w if log > -math.inf else 0.0 for w, log in zip(weights, log_t, strict=True)]
    places = range(len(s))
    (_, of_s), (_, of_t) = (plackett_luce_row(z, places, left) for z in (s, t))
    gradient = [0.0] * len(s)
    for k, c in enumerate(ranking):
        gradient[c] = temperature * (of_s[k] - of_t[k])
    return temperature**2 * math.fsum(costs), gradient


def stage_weights(teacher, ranking, stages, temperature):
    """The weights of one row's places: the teacher's mass, or 1/K for the first K."""
    if stages == "teacher":
        mass = softmax([z / temperature for z in teacher])
        return [mass[c] for c in ranking]
    return [1 / stages if k < stages else 0.0 for k in range(len(ranking))]


def plackett_luce_kl(student, teacher, labels, temperature=4.0, stages=2):
    """Rows: (N,) losses and (N, C) gradients of their sum, float64."""
    found = []
    for s, t, y in zip(student.double().tolist(), teacher.double().tolist(), labels.tolist(), strict=True):
        ranking = ranking_of(t, y)
        found.append(plackett_luce_kl_row(s, t, ranking, stage_weights(t, ranking, stages, temperature), temperature))
    losses, gradients = zip(*found, strict=True)
    return torch.tensor(losses, dtype=torch.float64), torch.tensor(gradients, dtype=torch.float64)


def kd(student, teacher, labels=None, temperature=4.0):
    p, q = (student / temperature).softmax(1), (teacher / temperature).softmax(1)
    return temperature**2 * (q * (q.log() - p.log())).sum(1)


def reverse_kl(student, teacher, labels=None, temperature=4.0):
    p, q = (student / temperature).softmax(1), (teacher / temperature).softmax(1)
    return temperature**2 * (p * (p.log() - q.log())).sum(1)


def jensen_shannon(student, teacher, labels=None, temperature=4.0):
    p, q = (student / temperature).softmax(1), (teacher / temperature).softmax(1)
    m = (p + q) / 2
    return temperature**2 * (q * (q / m).log() + p * (p / m).log()).sum(1) / 2


def dkd(student, teacher, labels, alpha=1.0, beta=8.0, temperature=4.0):
    p, q = (student / temperature).softmax(1), (teacher / temperature).softmax(1)
    rows = torch.arange(len(labels))
    target = q[rows, labels] * (q[rows, labels] / p[rows, labels]).log()
    rest = (1 - q[rows, labels]) * ((1 - q[rows, labels]) / (1 - p[rows, labels])).log()
    others = torch.ones_like(p, dtype=torch.bool)
    others[rows, labels] = False
    shape = (len(labels), p.shape[1] - 1)
    p_hat, q_hat = ((z[others].view(shape) / temperature).softmax(1) for z in (student, teacher))
    return temperature**2 * (alpha * (target + rest) + beta * (q_hat * (q_hat / p_hat).log()).sum(1))


def _pearson(a, b):
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)


def dist(student, teacher, labels=None, beta=2.0, gamma=2.0, temperature=4.0):
    p, q = (student / temperature).softmax(1), (teacher / temperature).softmax(1)
    inter, intra = 1 - _pearson(p, q).mean(), 1 - _pearson(p.T, q.T).mean()
    return temperature**2 * (beta * inter + gamma * intra)


def listing(student, teacher, labels, temperature=1.0):
    """PLD, batch mean, as the paper's listing has it: ascending, the label moved to the end, prefix logcumsumexp."""
    order = teacher.argsort(dim=-1)
    others = order[order != labels[:, None]].view(len(labels), -1)
    ranking = torch.cat([others, labels[:, None]], -1)
    s, q = student.gather(1, ranking), (teacher.gather(1, ranking) / temperature).softmax(-1)
    return ((s.logcumsumexp(-1) - s) * q).sum(-1).mean()
