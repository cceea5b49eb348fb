"""Marginal effects beside emmeans and the delta method in R, on tables that R ships.

    python benchmarks/effects_peers.py [--rscript RSCRIPT] [--draws 10000] [--freeze PATH]

RSCRIPT is one of R with lme4 and emmeans. R fits each model by least squares, maximum likelihood or
REML; means and contrasts are those of emmeans, averages of slopes and of comparisons (as in
marginaleffects) are computed from the model matrix, with standard errors by the delta method.
ranef fits it with flat priors of the coefficients; the standard deviation of the herds of cbpp is
held at its estimate. A difference is that of the estimates in posterior standard deviations.
Estimates of R are modes, those of ranef medians, so skewed posteriors differ a little: a small
number of events shows in the last column. `--freeze` writes R's numbers as a table.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import machine
import numpy as np
import pandas as pd

import ranef as rf
from ranef.effects import (
    avg_comparisons,
    avg_predictions,
    avg_slopes,
    marginal_means,
    posterior_draws,
    slopes,
)

PEER = r"""
suppressMessages({library(lme4); library(emmeans)})
folder <- commandArgs(TRUE)[1]
out <- data.frame()
keep <- function(example, what, estimate, se)
  out <<- rbind(out, data.frame(example, what, estimate = unname(estimate), se = unname(se)))
save_table <- function(d, name)
  write.csv(d, file.path(folder, paste0(name, ".csv")), row.names = FALSE)
of_emm <- function(example, e, names) {
  s <- as.data.frame(summary(e)); keep(example, names, s[[attr(summary(e), "estName")]], s$SE)
}
delta <- function(example, what, m, f) {
  b <- coef(m)
  slope <- sapply(seq_along(b), function(i) {
    h <- 1e-5 * max(1, abs(b[i])); u <- b; l <- b; u[i] <- u[i] + h; l[i] <- l[i] - h
    (f(u) - f(l)) / (2 * h)
  })
  keep(example, what, f(b), sqrt(drop(t(slope) %*% vcov(m) %*% slope)))
}
matrix_of <- function(m, d) model.matrix(delete.response(terms(m)), d, xlev = m$xlevels)
moved <- function(d, name, by) { d[[name]] <- d[[name]] + by; d }
set <- function(d, name, to) { d[[name]] <- to; d }
slope <- function(m, d, name, g = identity) {
  h <- 1e-4; hi <- matrix_of(m, moved(d, name, h)); lo <- matrix_of(m, moved(d, name, -h))
  function(b) mean(g(hi %*% b) - g(lo %*% b)) / (2 * h)
}

m <- lm(mpg ~ hp * wt * am, mtcars)
delta("mtcars lm", "avg_slopes hp", m, slope(m, mtcars, "hp"))
delta("mtcars lm", "avg_slopes wt", m, slope(m, mtcars, "wt"))
hi <- matrix_of(m, set(mtcars, "am", 1)); lo <- matrix_of(m, set(mtcars, "am", 0))
delta("mtcars lm", "avg_comparisons am 1 - 0", m, function(b) mean((hi - lo) %*% b))
means <- as.data.frame(lapply(mtcars, mean))
delta("mtcars lm", "slopes wt at means", m, slope(m, means, "wt"))
for (a in 0:1) delta("mtcars lm", paste("avg_slopes hp, am =", a), m,
  slope(m, mtcars[mtcars$am == a, ], "hp"))
save_table(mtcars, "mtcars")

m <- glm(case ~ spontaneous + induced + age, binomial, infert)
delta("infert logit", "avg_slopes age", m, slope(m, infert, "age", plogis))
hi <- matrix_of(m, moved(infert, "spontaneous", .5))
lo <- matrix_of(m, moved(infert, "spontaneous", -.5))
delta("infert logit", "avg_comparisons spontaneous +1", m,
  function(b) mean(plogis(hi %*% b)) - mean(plogis(lo %*% b)))
hi <- matrix_of(m, set(infert, "spontaneous", 2)); lo <- matrix_of(m, set(infert, "spontaneous", 0))
delta("infert logit", "lnratio spontaneous 2 against 0", m,
  function(b) log(mean(plogis(hi %*% b)) / mean(plogis(lo %*% b))))
save_table(infert, "infert")

u <- as.data.frame(UCBAdmissions)
u <- reshape(u, idvar = c("Gender", "Dept"), timevar = "Admit", direction = "wide")
names(u)[3:4] <- c("admitted", "rejected"); u$n <- u$admitted + u$rejected
m <- glm(cbind(admitted, rejected) ~ Gender + Dept, binomial, u)
hi <- matrix_of(m, set(u, "Gender", "Male")); lo <- matrix_of(m, set(u, "Gender", "Female"))
p <- function(x, b) sum(u$n * plogis(x %*% b)) / sum(u$n)
delta("UCBAdmissions", "difference Male - Female", m, function(b) p(hi, b) - p(lo, b))
delta("UCBAdmissions", "ratio Male / Female", m, function(b) p(hi, b) / p(lo, b))
delta("UCBAdmissions", "lnor Male, Female", m, function(b) qlogis(p(hi, b)) - qlogis(p(lo, b)))
of_emm("UCBAdmissions", emmeans(m, ~ Gender, type = "response"), c("emmean Male", "emmean Female"))
save_table(u, "ucb")

t <- transform(ToothGrowth, dose = factor(dose))
m <- lm(len ~ supp * dose, t)
of_emm("ToothGrowth", pairs(emmeans(m, ~ supp | dose)), paste("OJ - VC, dose", c(0.5, 1, 2)))
of_emm("ToothGrowth", emmeans(m, ~ dose), paste("emmean dose", c(0.5, 1, 2)))
save_table(ToothGrowth, "tooth")

m <- glm(breaks ~ wool * tension, poisson, warpbreaks)
of_emm("warpbreaks Poisson", emmeans(m, ~ tension, type = "response"),
  paste("emmean", c("L", "M", "H")))
of_emm("warpbreaks Poisson", pairs(emmeans(m, ~ tension | wool)),
  paste(rep(c("A", "B"), each = 3), c("L - M", "L - H", "M - H"), "(log)"))
save_table(warpbreaks, "warpbreaks")

m <- lm(log(conc) ~ source + factor(percent), pigs)
of_emm("pigs (emmeans)", emmeans(m, ~ source), paste("emmean", c("fish", "soy", "skim")))
of_emm("pigs (emmeans)", pairs(emmeans(m, ~ source)), c("fish - soy", "fish - skim", "soy - skim"))
save_table(pigs, "pigs")

m <- lmer(Reaction ~ Days + (Days | Subject), sleepstudy)
of_emm("sleepstudy", emmeans(m, ~ Days, at = list(Days = c(0, 5, 9))),
  paste("emmean Days", c(0, 5, 9)))
of_emm("sleepstudy", emtrends(m, ~ 1, var = "Days"), "emtrend Days")
save_table(sleepstudy, "sleepstudy")

m <- glmer(cbind(incidence, size - incidence) ~ period + (1 | herd), cbpp, binomial)
of_emm("cbpp glmer", emmeans(m, ~ period), paste("emmean period", 1:4, "(logit)"))
of_emm("cbpp glmer", pairs(emmeans(m, ~ period))[1:3], paste("1 -", 2:4, "(logit)"))
keep("cbpp glmer", "sd of herds", sqrt(VarCorr(m)$herd[1]), NA)
save_table(cbpp, "cbpp")
write.csv(out, file.path(folder, "peer.csv"), row.names = FALSE)
"""

FLAT = {"Intercept": rf.Flat(), "common": rf.Flat()}


def results(folder: Path, draws: int, herds: float) -> dict[str, list[object]]:
    """The tables of each example, whose rows are in the order of the peer's."""

    def fit(name: str, formula: str, family: str = "gaussian", **options: object) -> rf.Fit:
        table = pd.read_csv(folder / f"{name}.csv")
        if "tension" in table:
            table["tension"] = pd.Categorical(table["tension"], ["L", "M", "H"], ordered=True)
        if "source" in table:
            table["source"] = pd.Categorical(table["source"], ["fish", "soy", "skim"], ordered=True)
        priors = {**FLAT, **options}
        return rf.Model(formula, family, priors).fit(table, draws=draws, progress=False)

    cars = fit("mtcars", "mpg ~ hp * wt * am")
    births = fit("infert", "case ~ spontaneous + induced + age", "bernoulli")
    admissions = fit("ucb", "admitted / n ~ Gender + Dept", "binomial")
    table = pd.read_csv(folder / "ucb.csv")
    teeth = fit("tooth", "len ~ supp * C(dose)")
    wool = fit("warpbreaks", "breaks ~ wool * tension", "poisson")
    pigs = fit("pigs", "log(conc) ~ source + C(percent)")
    sleep = fit("sleepstudy", "Reaction ~ Days + (Days | Subject)")
    cattle = fit(
        "cbpp", "incidence / size ~ C(period) + (1 | herd)", "binomial", **{"1|herd_sigma": herds}
    )

    def gender(comparison: str) -> object:
        asked = {"Gender": ("Female", "Male")}
        return avg_comparisons(admissions, asked, newdata=table, weights="n", comparison=comparison)

    backed = {"type": "invlink(link)"}
    return {
        "mtcars lm": [
            avg_slopes(cars, ["hp", "wt"]),
            avg_comparisons(cars, {"am": (0, 1)}),
            slopes(cars, "wt", newdata="mean"),
            avg_slopes(cars, "hp", by="am"),
        ],
        "infert logit": [
            avg_slopes(births, "age"),
            avg_comparisons(births, "spontaneous"),
            avg_comparisons(births, {"spontaneous": (0, 2)}, comparison="lnratio"),
        ],
        "UCBAdmissions": [
            *(gender(c) for c in ("difference", "ratio", "lnor")),
            marginal_means(admissions, {"Gender": ["Male", "Female"]}, **backed),
        ],
        "ToothGrowth": [
            marginal_means(teeth, "supp", by="dose", hypothesis="pairwise"),
            marginal_means(teeth, "dose"),
        ],
        "warpbreaks Poisson": [
            marginal_means(wool, "tension", **backed),
            marginal_means(wool, "tension", by="wool", hypothesis="pairwise", type="link"),
        ],
        "pigs (emmeans)": [
            marginal_means(pigs, "source", type="link"),
            marginal_means(pigs, "source", hypothesis="pairwise", type="link"),
        ],
        "sleepstudy": [
            avg_predictions(sleep, newdata=rf.effects.datagrid(sleep, Days=[0, 5, 9]), by="Days"),
            slopes(sleep, "Days", newdata="mean"),
        ],
        "cbpp glmer": [
            marginal_means(cattle, "period", type="link"),
            marginal_means(
                cattle, "period", type="link", hypothesis=["b1 = b2", "b1 = b3", "b1 = b4"]
            ),
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rscript", default="Rscript")
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--freeze", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([options.rscript, "-e", PEER, name], check=True, capture_output=True)
        peer = pd.read_csv(folder / "peer.csv")
        herds = float(peer.loc[peer["what"] == "sd of herds", "estimate"].iloc[0])
        found = results(folder, options.draws, herds)
        peer = peer[peer["se"].notna()]
    if options.freeze:
        peer.to_csv(options.freeze, index=False, float_format="%.8g")
    print(f"{machine.describe('ranef', 'jax')}\n")
    print("| example | estimate | R | se | ranef | posterior sd | difference, sd |")
    print("|---|---|---|---|---|---|---|")
    for example, tables in found.items():
        draws = np.concatenate(
            [posterior_draws(t).to_numpy().reshape(options.draws, -1) for t in tables], axis=1
        )
        own = peer[peer["example"] == example]
        for row, values in zip(own.itertuples(), draws.T, strict=True):
            estimate, sd = np.median(values), values.std(ddof=1)
            print(
                f"| {example} | {row.what} | {row.estimate:.5g} | {row.se:.4g} | {estimate:.5g} | "
                f"{sd:.4g} | {(estimate - row.estimate) / sd:+.3f} |"
            )


if __name__ == "__main__":
    main()
