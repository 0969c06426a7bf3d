"""Answers: what is the same value, what is not, and what must never cost time, memory or an exception.

Independent of the implementation: pairs with known truth, properties over random rationals, expressions and
polynomials, a grid against math-verify, and hostile texts.
"""

import random
import re
import resource
import subprocess
import sys
import time
from fractions import Fraction
from functools import reduce
from pathlib import Path

import fuzz_answers
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from rewards import countdown_reward, extract_answer, format_reward, language_reward, math_reward
from verify.answers import reading, same_answer

try:
    import math_verify
except ImportError:
    math_verify = None

ROOT = Path(__file__).parent.parent


def wrap(answer, thinking="x"):
    return f"<think>{thinking}</think><answer>{answer}</answer>"


# ------------------------------------------------------------------------------------------- pairs: right

RIGHT = {
    "numbers": [("42", "42"), (" 42\n", "42"), ("42.", "42"), ("42.0", "42"), ("42.000", "42"), ("042", "42"),
        (".5", "0.5"), ("0.50", "1/2"), ("+5", "5"), ("-5", "-5"), ("- 5", "-5"), ("(-5)", "-5"), ("-0", "0"),
        ("\u22125", "-5"), ("\u22120.5", "-1/2"), ("5.", "5"), ("(42)", "42"), ("{42}", "42")],
    "thousands": [("1,000", "1000"), ("1{,}000", "1000"), (r"1\,000", "1000"), ("1,234,567", "1234567"),
        (r"1\,234\,567", "1234567"), ("1{,}234{,}567.5", "1234567.5"), ("-1,000", "-1000"),
        (r"1,\!000", "1000"), (r"12\;345", "12345"), (r"1\ 000", "1000"), ("1,000.5", "1000.5"),
        ("x = 1,000", "1000")],
    "thousands with a unit, a currency, a percent sign": [(r"\$1,000", "1000"), ("1,000 cm", "1000"),
        ("1,000 dollars", r"\$1000"), (r"1,000\%", "10"), (r"1,000\text{ apples}", "1000"),
        ("$1,000$", "1000"), (r"\$1{,}000", "1000"), (r"12,000^\circ", "12000"), (r"1,000\pi", r"1000\pi")],
    "fractions": [(r"\frac{1}{2}", "1/2"), (r"\dfrac{1}{2}", "0.5"), (r"\tfrac12", "1/2"),
        (r"\cfrac{1}{2}", "1/2"), (r"\frac12", "0.5"), (r"\frac 1 2", "1/2"), (r"\frac1{2}", "1/2"),
        (r"\frac{2}{4}", "1/2"), ("2/4", "1/2"), (r"-\frac{1}{2}", "-1/2"), (r"\frac{-1}{2}", "-1/2"),
        (r"\frac{1}{-2}", "-1/2"), (r"\frac{-1}{-2}", "0.5"), (r"\frac{22}{7}", "22/7"),
        (r"\frac{0.5}{2}", "0.25"), ("6/3", "2"), ("1 / 3", r"\frac13")],
    "mixed numbers": [("2 1/2", "5/2"), (r"2\frac{1}{2}", "2.5"), (r"2\frac12", "2.5"),
        (r"2 \dfrac{1}{2}", "5/2"), (r"-2\frac{1}{2}", "-2.5"), ("-2 1/2", "-5/2"),
        (r"2\ \frac{1}{2}", "5/2"), (r"2\,\frac12", "5/2"), ("10 3/4", "10.75"), (r"3\ 1/2", "3.5"),
        (r"3\,1/2", "7/2")],
    "repeating decimals": [(r"0.\overline{3}", "1/3"), (r"0.1\overline{6}", "1/6"),
        (r"-0.\overline{3}", "-1/3"), (r"0.\overline{142857}", r"\frac17"), (r"1.\overline{09}", "12/11")],
    "percent": [("50%", "0.5"), (r"50\%", r"\frac{1}{2}"), ("50 %", "1/2"), ("0.5", r"50\%"),
        ("12.5%", "1/8"), ("-5%", "-0.05"), ("50 percent", "50%"), (r"50 \text{ percent}", "50%"),
        (r"\frac{1}{2}\%", "0.005"), ("50%", "50"), ("50", "50%"), (r"50\%", "50"), ("50 per cent", "50"),
        (r"50\text{ percent}", "50"), ("0.5%", "0.5"), ("0.5%", "1/2")],
    "wrapping": [("$42$", "42"), ("$$42$$", "42"), (r"\(42\)", "42"), (r"\[42\]", "42"),
        (r"\boxed{42}", "42"), (r"$\boxed{42}$", "42"), (r"\(\boxed{\frac12}\)", "0.5"),
        (r"\boxed{$42$}", "42"), (r"\text{42}", "42"), (r"\mathrm{42}", "42"), (r"\boxed{\text{yes}}", "yes"),
        (r"$42.$", "42"), (r"\boxed{42}.", "42"), (r"\boxed{\frac{1}{2}}", "1/2"),
        (r"\left(\frac12\right)", "1/2"), (r"\displaystyle\frac12", "1/2")],
    "money, degrees, units": [(r"\$5", "5"), (r"\$5.00", "5"), (r"-\$5", "-5"), (r"\$-5", "-5"), ("$5", "5"),
        ("5 dollars", r"\$5"), ("\u20ac5", "5"), ("\u00a35", "5"), ("45^\\circ", "45"), (r"45^{\circ}", "45"),
        ("45\u00b0", "45"), ("45 degrees", r"45^\circ"), ("5 cm", "5"), (r"5\text{ cm}", "5"),
        ("5cm", "5 cm"), (r"5\,\text{cm}", "5"), (r"5\ \mathrm{cm}", "5 cm"), (r"5\text{ cm}^2", "5"),
        ("5 cm^2", r"5\text{ cm}^2"), (r"5 \text{ square feet}", "5"), ("5 meters", "5 m"),
        ("5 km/h", r"5\text{ km/h}"), ("12 apples", "12"), ("3 hours", "3 hrs"), ("1 hour", "1 h"),
        (r"\frac{1}{2}\text{ hour}", "0.5"), (r"12 \text{ apples}", "12"), (r"5\,m", "5"), (r"5\ m", "5 m"),
        ("42", "42 sheep"), ("42.0 sheep", "42 sheep"), ("5 \u20ac", "5"), (r"20^\circ\text{C}", "20"),
        ("50 cents", "50")],
    "roots and pi with a unit": [(r"5\sqrt{2}\text{ cm}", r"5\sqrt{2}"), (r"25\pi\text{ cm}^2", r"25\pi"),
        (r"25\pi", r"25\pi \text{ square units}"), (r"\$5\sqrt{2}", r"5\sqrt2")],
    "scientific notation": [("1.5e3", "1500"), ("1.5E+3", "1500"), ("1e-3", "0.001"),
        (r"1.5 \times 10^3", "1500"), (r"1.5\times10^{3}", "1500"), (r"1.5\cdot 10^{-3}", "0.0015"),
        ("1.5*10^3", "1500"), ("1.5 \u00d7 10^3", "1500"), (r"-2 \times 10^{-2}", "-0.02"),
        (r"10^{12}", "1000000000000")],
    "tuples and intervals": [("(1,2)", "(1, 2)"), ("(1/2,0.25)", r"\left(\frac12,\frac14\right)"),
        ("[1,2)", "[1, 2.0)"), (r"(-\infty,3]", r"\left(-\infty, 3\right]"), ("(1,2,3)", "(1, 2, 3)"),
        (r"(-\infty,0)\cup(0,\infty)", r"(-\infty, 0) \cup (0, \infty)"),
        (r"[0,1] \cup [2,3]", "[2,3] \u222a [0,1]"), (r"(\sqrt{8},1)", r"(2\sqrt2, 1)"),
        (r"(- \infty, 5)", r"(-\infty,5)"), ("((1,2),3)", "((1,2), 3)")],
    "sets": [(r"\{1,2\}", r"\{2,1\}"), ("1, 2", "2, 1"), (r"\{1, 2\}", "1,2"), ("{1,2}", "1, 2"),
        (r"\left\{1,2\right\}", "1,2"), (r"\pm 2", "2,-2"), (r"2, -2", r"\pm 2"), (r"x = \pm 2", "-2, 2"),
        (r"1 \pm \sqrt{2}", r"1-\sqrt2, 1+\sqrt2"), ("\u00b12", "2,-2"), (r"\{\frac12\}", r"\{0.5\}"),
        (r"\{1\} \cup \{2\}", r"\{1,2\}"), ("x = 1, 2", "1,2")],
    "choices and words": [("A", "A"), ("(A)", "A"), ("A)", "A"), ("A.", "A"), ("a", "A"), (r"\text{A}", "A"),
        (r"\textbf{(A)}", "A"), (r"\text{(C)}", "C"), ("C", "(C)"), (r"\boxed{D}", "D"), ("yes", "Yes"),
        ("Even.", "even"), (r"\text{Monday}", "monday"), (r"\text{no solution}", "no  solution"),
        ("(red,blue)", "(red, blue)")],
    "relations": [("x = 5", "5"), ("5", "x=5"), ("x=5", "x = 5.0"), ("5 = x", "x = 5"), ("x<5", "5>x"),
        (r"x \leq 5", r"x\le 5"), ("x >= 5", r"x \geq 5"), ("x \u2264 5", r"x \le 5"), ("y = 2x+1", "2x+1"),
        ("y=1+2x", "y = 2x+1"), (r"x \in [1,2]", "[1,2]"), ("x_1 = 5", "5"), (r"\theta = 5", "5"),
        ("f(x) = x^2", "x^2"), (r"x \ne 3", "x != 3")],
    "roots, pi, i": [(r"\sqrt{4}", "2"), (r"\sqrt{8}", r"2\sqrt{2}"), (r"\sqrt 2", r"\sqrt{2}"),
        ("sqrt(2)", r"\sqrt2"), (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt2}{2}"),
        (r"\frac{1}{1+\sqrt2}", r"\sqrt2-1"), (r"\sqrt[3]{8}", "2"), (r"\sqrt[3]{16}", r"2\sqrt[3]{2}"),
        (r"\sqrt{2}\cdot\sqrt{3}", r"\sqrt{6}"), (r"\sqrt{\frac{1}{4}}", "1/2"), (r"2\pi", r"\pi\cdot2"),
        (r"\frac{\pi}{2}", r"0.5\pi"), ("2\u03c0", r"2\pi"), ("\u221a2", r"\sqrt{2}"),
        (r"(1+\sqrt{2})^2", r"3+2\sqrt2"), (r"\sqrt{-4}", "2i"), ("i^2", "-1"), ("(1+i)^2", "2i"),
        ("4^{1/2}", "2"), (r"2^{\frac12}", r"\sqrt2"), (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
        ("\u221a16", "4")],
    "expressions": [("x^2-1", "(x-1)(x+1)"), ("(x+1)^2", "x^2+2x+1"), ("2(x+y)", "2x+2y"),
        (r"\frac{x^2-1}{x-1}", "x+1"), ("1+2x", "2x+1"), (r"x\cdot y", "yx"), ("yx", "xy"), ("x - y", "x-y"),
        ("-y+x", "x - y"), ("2^{10}", "1024"), ("2^3", "8"), ("5!", "120"), ("3(4)", "12"),
        (r"\frac{x}{2}", "0.5x"), ("x^{-1}", r"\frac1x"), ("|-5|", "5"), (r"\sin(2x)", r"\sin(x+x)"),
        (r"\sin 2x", r"\sin(2x)"), ("a_1+a_2", "a_2 + a_{1}"), ("(2^3)^2", "64"), ("-2^2", "-4"),
        (r"\ln(4)", r"\ln 4"), ("x^2y", "y x^2")],
    "more, after the code": [("18 cents", "18"), ("10 hours per week", "10"), ("18 eggs left", "18"),
        ("$18", "18 dollars"), ("18 dollars", "$18"), ("$18.00 per day", "18"),
        ("25 percent of the total", "25%"), ("20 minutes", "20 min"), ("1,234 people", "1234"),
        ("18 students", "18 students."), ("8 slices of pizza", "8"), ("18 inches", "18 in"),
        ("18 inches tall", "18"), ("18 sq ft", "18"), ("18 miles per hour", "18 mph"), ("75 mph", "75"),
        ("18 Ducks", "18"), ("18 (ducks)", "18"), ("18 ducks.", "18"), ("x=18 ducks", "18"),
        (r"\begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}", r"\begin{bmatrix}1&0\\0&1\end{bmatrix}"),
        (r"\left(\begin{matrix}1\\2\end{matrix}\right)", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        ("[[1,2],[3,4]]", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
        (r"\begin{pmatrix}-7\\16\\5\end{pmatrix}", r"\begin{pmatrix} -7 \\ 16 \\ 5 \end{pmatrix}"),
        (r"\mathbf{v}=\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"\{(1,2),(3,4)\}", r"\{(3,4),(1,2)\}"), (r"(0,9)\cup(9,36)", r"(9,36) \cup (0,9)"),
        ("52\u2088", "52_8"), ("4343_{6}", "4343_6"), (r"x=1\text{ or }2", "1,2"), (r"x=1,\ 2", "1,2"),
        (r"x = 1\ \text{and}\ x=2", "1,2"), (r"x = -1 \text{ or } 1", r"\pm 1"), (r"\pm1", r"x=\pm 1"),
        ("x \u2264 3", r"x \leq 3"), ("x\u22653 ", r"[3,\infty)"), ("\u22121 \u2264 x < 3", "[-1,3)"),
        (r"0\leq x\leq 1", r"x\in[0,1]"), (r"\{x \mid x > 2\}", r"(2,\infty)"),
        (r"\{x\in\mathbb{R}: x>2\}", "x>2"), ("(\xbd, 3)", "(0.5,3)"), ("x\xb3", "x^3"),
        ("\uff12\uff15", "25"), ("10\u207b\xb3", "0.001"), ("5\xd710\xb3", "5000"),
        ("\u03c0/2", r"\frac{\pi}{2}"), ("2\u221a3", r"2\sqrt{3}"), ("\u221a(3)/2", r"\frac{\sqrt3}{2}"),
        ("\u2205", r"\emptyset"), ("\u221e", r"\infty"), ("\u03b1+\u03b2", r"\alpha+\beta"),
        ("\u201c42\u201d", "42"), ("\uff08\uff11\uff0c\uff12\uff09", "(1,2)"), ("4\xbc", "4.25"),
        ("90\xb0", "90"), ("6\u2032", "6'"), ("x\u2081=2", "x_1=2"), ("C\u2081", "C_1"),
        ("3 \u2013 x", "3-x"), ("x\xb2 \u2013 3x", "x^2-3x"), ("\u20133/4", "-3/4"),
        ("(\u20133, 4)", "(-3,4)"), ("\uff08A\uff09", "A"), (r"$\frac{1}{2}$ ", "\xbd"),
        ("**Answer**", "answer"), ("**B**", "B"), ("**(B)**", "B"), ("*B*", "B"), ("**18 ducks**", "18"),
        ("**$18**", "18"), (r"**\$18**", "18"), ("`x + 1`", "x+1"), ("**x=1** or **x=2**", "1,2"),
        (r"\tbinom{6}{3}", "20"), (r"\log_{2}{8}", "3"), (r"\log_{3} 81", "4"), (r"\log_9 27", "3/2"),
        (r"\lg 100", r"\lg 100"), (r"\sin{30^\circ}", "0.5"), ("\\sin(30\xb0)", "0.5"),
        ("sin(30\xb0)", "0.5"), (r"\cos\left(\frac{2\pi}{3}\right)", "-0.5"), ("3**2", "9"), ("2*3**2", "18"),
        ("6:00 pm", "6 p.m."), ("6:00 PM", r"6\text{ PM}"), ("5:30 P.M.", "5:30 p.m."),
        (r"5:30 \text{p.m.}", "5:30pm"), (r"\text{5:30 p.m.}", "5:30 PM"), ("y = -2x", "-2x"),
        ("x^2 + y^2 - 13 = 0", "x^2+y^2=13"), (r"\frac{x^2}{9} + y^2 = 1", "x^2+9y^2=9"), ("60 %", "60"),
        ("60 percent", "0.6"), ("66.7%", "66.7"), ("0.125", "12.5%"), (r"12\frac12\%", "12.5"),
        (r"\frac{1}{2} \text{ or } 2", "2, 0.5"), (r"2, \frac{1}{2}", r"\frac12 \text{ and } 2"),
        (r"69\text{ and }84", "69,84"), ("3, 5, 7", r"\{3,5,7\}"), ("1, 2, 3 and 4", "1,2,3,4"),
        ("1; 2", "1,2"), (r"\{1; 2\}", "1,2"), (r"1,2,3,\ldots", "1,2,3,..."), ("(a+5)(b+2)", "(b+2)(a+5)"),
        (r"5.4 \text{ cents}", "5.4"), (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}"), ("38 4/7", "270/7"),
        (r"x\in(-\infty,2)\cup(3,\infty)", r"x<2\text{ or }x>3"), ("x=2,y=3", "(x,y)=(2,3)"),
        ("(x,y)=(2,3)", "x=2,y=3"), (r"\(42\)", "42"), (r"\[ 42 \]", "42"), (r"42 \\", "42"), ("The", "the"),
        (r"\$ 18", "18"), ("\u20ac18", "18"), ("18 \u20ac", "18"), ("18 USD", "18"), ("18 usd", "18"),
        ("1st", "1st"), ("5^{th}", "5th"), (r"5^{\text{th}}", "5th"), (r"3\text{rd}", "3rd"),
        (r"\text{Thursday}", "Thursday"), ("x = {1, 2}", "1,2"), ("5 : 3", "5:3"), (r"\mathrm{True}", "true"),
        ("f(x)=x+1", "x+1"), ("f^{-1}(x)=x+1", "x+1"), (r"2\cdot 3", "6"), ("2\xb73", "6"),
        ("3 m/s", "3 m/s"), ("3 meters per second", "3 m/s"), ("9.8 m/s\xb2", "9.8 m/s^2"),
        (r"9.8\,\text{m/s}^2", "9.8"), (r"5\text{ cm}^{2}", "5 square cm"), ("5 cm\xb2", "5 cm^2"),
        ("5 kg", "5 kilograms"), ("\u22123", "-3"), ("+3", "3"), ("3.0", "3"), ("-\xbd", "-0.5"),
        ("x = \xbd", "0.5"), ("18\xb0C", "18"), ("x=1 and y=2", "y=2,x=1"),
        (r"\frac{\pi}{6}+2\pi k", r"2\pi k+\pi/6"), (r"\dfrac{5}{6}\text{ of a mile}", "5/6")],
    "rounded golds": [("3.14", r"\approx 3.14"), ("3.1416", r"\approx 3.14"), ("2/3", "0.66..."),
        ("0.667", r"\approx 0.667"), ("42", r"\approx 42"), ("x = 3.14", r"\approx 3.14")],
}


@pytest.mark.parametrize("text,gold", [pair for pairs in RIGHT.values() for pair in pairs])
def test_the_same_value_is_right(text, gold):
    assert same_answer(text, gold)


@pytest.mark.parametrize("kind", RIGHT)
def test_a_right_answer_is_rewarded_in_a_completion(kind):
    texts, golds = zip(*RIGHT[kind][:5], strict=True)
    assert math_reward([wrap(t) for t in texts], list(golds)) == [1.0] * len(texts)


# ------------------------------------------------------------------------------------------- pairs: wrong

WRONG = {
    "more, after the code": [("18 hundred", "18"), ("18 hundreds", "18"), ("18 eighths", "18"),
        ("eighteen", "18"), ("18 tens", "18"), ("18 million dollars", "18"), ("18 and three quarters", "18"),
        ("18 to 20 ducks", "18"), ("18 - 20 ducks", "18"), ("18-20 ducks", "18"), ("18 ducks minus 3", "18"),
        ("18 per hundred", "18"), ("18 pi", "18"), ("18 x", "18"), ("18 n", "18"), ("18 degrees below", "18"),
        ("no 18", "18"), ("18 factorial", "18"), ("18 percent", "1800"), ("18%", "180"), ("0.018", "18%"),
        ("18 cm", "18 m"), ("18 cm^2", "18 cm"), ("18 ducks", "18%"), ("18 times itself", "18"),
        ("18 times ten", "18"), ("18 times more than", "18"), ("18 square", "18"), ("18 cubed ducks", "18"),
        ("18 x 2 ducks", "18"), ("18 or more ducks", "18"), ("18 plus ducks", "18"), ("18+ ducks", "18"),
        ("18 thousandths", "18"), ("18 sixteenths", "18"), ("18 b", "18"), ("18 m", "18 M"),
        ("18 billionths", "18"), ("18 base five", "18"), ("18 base 9", "17"), ("18 base 9", "18"),
        ("18_9", "18"), ("18e", "18"), ("18 e", "18"), ("18 i", "18"), ("18 not ducks", "18"),
        ("18 isn't right", "18"), ("18 doesn't work", "18"), ("18 ducks 5", "18"), ("18, 19 ducks", "19"),
        ("18 ducks; 19 geese", "18"), ("18 ducks. 19 geese", "18"), ("18 ducks. nineteen geese", "18"),
        ("1 or 2", "2"), ("x=1, y=2", "1"), ("(1,2)", "(2,1)"), ("(1,2),(3,4)", "(1,3),(2,4)"),
        ("-1<x<3", "(-1,3]"), ("x>1 and x<3", "x>1 or x<3"), ("2x+2y=4", "x+y=3"), ("x=5", "y=5"),
        ("x+1=6", "5"), ("x+1=6", "x=5"), ("3:45", "3.75"), ("12:30 a.m.", "12:30 p.m."),
        ("25:30", "1:30 a.m."), ("1/2", "1:2"), ("1:2", "0.5"), ("1:2", "2:4"), ("x^{10}", "x^1 0"),
        (r"\log_2 9", "3"), (r"\ln 2", r"\log_{10} 2"), (r"\sin 30^\circ", "0.499999"),
        (r"\sin 45^\circ", "0.7071"), (r"\cos 36^\circ", "0.809"), (r"\tan 30^\circ", r"\sqrt{3}"),
        (r"\cot 30^\circ", r"\frac{\sqrt3}{3}"), ("9**0.5", "-3"), ("2**3", "6"), ("C", "B"),
        ("x \u2265 3", "x > 3"), ("-5", "5\u2013"), ("5\u2013", "5"), ("3\u20135", "-2"), ("3\u20145", "-2"),
        ("\xbd", "12"), ("1\xbd", "11/2"), ("x\xb2", "x2"), ("x\u2082", "x2"), ("4\u03322", "42"),
        ("\u0664\u0662", "42"), ("\u56db\u5341\u4e8c", "42"), ("\u2173", "4"), ("1 2/3 4", "5/3"),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}^2", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
        (r"-\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}^T", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        ("[[1,3],[2,4]]", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
        (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", "-2"),
        (r"|\begin{matrix}1&2\\3&4\end{matrix}|", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
        (r"\begin{cases}1\\2\end{cases}", r"\begin{pmatrix}1\\2\end{pmatrix}"), ("$42", "43"),
        ("$4$,2", "42"), (r"x \in {1,2}", "1"), ("any of 1,2", "1"), ("1,2,...,100", "50"),
        ("yes", "Yes, no"), ("no solution", "0"), ("A) 5", "A, B"), ("abc", "a"), ("2 abc", "2"),
        ("5 xyz", "5"), ("2 ab", "2"), ("2 bc", "2"), ("10 (m)", "10 (x)"), ("18 (x)", "18"),
        ("18 (or so)", "18"), ("18 (approx)", "18"), ("18 (minus two)", "18"), ("18 (wrong)", "18"),
        ("18 (-1)", "18"), ("18(2)", "18"), ("2 cos", "2"), ("2 lim", "2"), ("2 sum", "2"), ("2 mod", "2"),
        ("2 e", "2"), ("18 each or nineteen total", "18"), ("18 plus", "18"), ("18 more", "19"),
        ("0.6%", "60%"), ("60%", "0.006"), ("18 per mille", "18"), ("18 basis points", "18"),
        ("18 o'clock", "19"), ("x<3", "x<3 or x>5"), (r"x \ne 2", "2"), (r"x\ne 2", "x=2"), ("a<b", "b<a"),
        ("x+y<3", "x+y>3"), ("1=1", "1"), ("5=x=5", "5"), (r"\emptyset", "{}"), ("{1,2}", "{1,2,{}}"),
        ("18 ducks or geese", "18"), ("18 am", "18 pm"), ("5 am", "5"), ("5 pm", "5"), ("*18* 19", "18"),
        ("**18** 19", "18"), ("`18`19", "18"), ('"18" "19"', "18"), ("_1_8", "18"), ("__18__19", "18"),
        ("$18$19$", "18")],
    "two values": [("41 or 42", "42"), ("42 or 41", "42"), ("42 and 43", "42"), ("42, 43", "42"),
        ("42; 43", "42"), ("42 43", "42"), ("42\n43", "42"), (r"42 \\ 43", "42"), (r"42\\43", "42"),
        (r"42 \text{or} 43", "42"), (r"42\text{ or }43", "42"), ("42/43", "42"), ("$42$ $43$", "42"),
        ("$41$ or $42$", "42"), ("42 (or 43)", "42"), (r"\(41\) \(42\)", "42"), (r"\[41\]\[42\]", "42"),
        (r"$$41$$ $$42$$", "42"), (r"\boxed{41}\boxed{42}", "42"), (r"\boxed{42} \boxed{42}", "42"),
        (r"\boxed{41} 42", "42"), ("41 = 42", "42"), ("42 = 42", "42"), ("x = 41 = 42", "42"),
        ("x = 42 or x = 43", "42"), ("x=42,y=43", "42"), ("41 < 42", "42"), ("41-42", "42"),
        ("42...43", "42"), ("42 to 43", "42"), (r"42\pm1", "42"), (r"\pm 42", "42"), ("42|43", "42"),
        ("42:43", "42"), (r"\{41,42\}", "42"), ("(41,42)", "42"), ("[41,42]", "42"), ("1,2,3,4", "4"),
        ("x = 42 \u2228 x = 43", "42")],
    "spacing commands that join two numbers": [(r"4\ 2", "42"), (r"4\quad2", "42"), (r"4\quad 2", "42"),
        (r"4\;2", "42"), ("4~2", "42"), ("4 2", "42"), (r"3\ 1/2", "31/2"), (r"3\,1/2", "31/2"),
        ("3~1/2", "15.5"), ("3 1/2", "31/2"), (r"1\quad000", "1000"), (r"2^3\ 4", "2^{34}"),
        (r"4\text{2}", "42"), (r"4{}2", "42"), ("{4}{2}", "42"), (r"41\quad42", "4142")],
    "negations and relations": [("not 42", "42"), ("42 not", "42"), ("not=42", "42"), ("not = 42", "42"),
        (r"\not=42", "42"), (r"\not = 42", "42"), (r"x \not= 42", "42"), (r"\neg=42", "42"),
        ("x != 42", "42"), (r"x \ne 42", "42"), (r"\neq 42", "42"), ("wrong=42", "42"), ("x < 42", "42"),
        ("x > 42", "42"), (r"x \le 42", "42"), ("x > 42", "x < 42"), ("x < 42", r"x \le 42"),
        ("y = 42", "x = 42"), ("-x = 42", "42"), ("2x = 42", "42"), ("x^2 = 42", "42"), ("1/x = 42", "42"),
        ("x <= 5", "x < 5"), ("5 < x", "x < 5"), (r"x \in (1,2)", "x = (1,2)"), ("x = 42 - 1", "42"),
        (r"\lnot 42", "42"), ("isnt=42", "42")],
    "words that change the value": [("7 hundred", "7"), ("42 minus 3", "42"), ("42 squared", "42"),
        ("42 cubed", "42"), ("42 dozen", "42"), ("42 dozens", "42"), ("7 thirds", "7"), ("7 twelfths", "7"),
        (r"7 \text{ twelfth}", "7"), ("5 lakhs", "5"), ("5 crores", "5"), ("5 quadrillions", "5"),
        (r"42 \text{ squared}", "42"), (r"42 \text{ doubled}", "42"), (r"42 \text{ factorial}", "42"),
        (r"42 \text{ below zero}", "42"), (r"42 \text{ negated}", "42"), (r"42 \text{ base nine}", "42"),
        (r"42 \text{ minusone}", "42"), (r"42 \text{ maybe fortythree}", "42"),
        (r"42 \text{ rather fortythree}", "42"), (r"42 \text{ million}", "42"), ("42 million", "42"),
        (r"42\text{ mod }5", "42"), ("42 mod 5", "42"), ("42 times 2", "42"), ("half of 42", "42"),
        ("about 42", "42"), ("at least 42", "42"), ("42 more or less", "42"), ("42 less", "42"), ("5k", "5"),
        ("minus 42", "42"), (r"\text{minus }42", "42"), (r"\text{-}42", "42"), (r"\text{not }42", "42"),
        ("42 wrong guesses", "42"), ("42 I think", "42"), ("Answer: 42", "42"), ("forty-two", "42"),
        ("42 xor 43", "42")],
    "units": [("5 m", "5 cm"), ("500 cm", "5 cm"), ("5 m", "5 m^2"), ("5 cm^2", "5 cm^3"),
        ("5 feet 3 inches", "5"), ("5 h 30 min", "5"), ("5 minutes", "5 hours"), (r"5 \text{ m/s}", "5 m"),
        ("50 cents", r"\$50"), ("\u00a35", "\u20ac5"), (r"\$5", "5 euros"), ("5 x", "5"), ("5m", "5"),
        ("5M", "5"), ("5 apples 6 pears", "5"), ("20^\\circ C", "20^\\circ F"), (r"5^\circ 30'", "5"),
        ("5 K", "5 N"), ("1 of 5", "1"), ("5 cm 3", "5"), (r"5\text{ of }6", "5"),
        (r"5^{\text{th}}\text{ root}", "5"), (r"-\$1+50", "-51")],
    "percent tricks": [("3/50%", "0.0006"), ("50%%", "50"), ("5%", "0.5"), ("50% of 84", "42"), ("50", "1/2"),
        ("0.5", "50"), ("50%", "5000"), ("1+50%", "0.51"), ("5-3%", "0.02"), ("5 - 3%", "2%"),
        ("42 % 43", "42"), ("42 % comment", "42"), ("42% or 43%", "42%")],
    "separators": [("1,00", "100"), ("10,00", "1000"), ("1,0000", "10000"), ("1000,000", "1000000"),
        ("1,000,00", "100000"), ("1.000", "1000"), ("1.000,5", "1000.5"), ("0,5", "0.5"), ("1,5", "1.5"),
        ("1_000", "1000"), ("1'000", "1000"), (r"\{1,000\}", r"\{1000\}"), ("(1,000)", "1000"),
        ("1,,000", "1000"), (",5", "5"), ("5,", "5"), ("4,2", "42"), (r"4{,}2", "42"), ("4.2", "42"),
        ("4.2", "4,2"), (r"\$1,000", r"\{1,0\}"), ("1..5", "1.5"), ("1.2.3", "1.23")],
    "sets, tuples, intervals": [(r"(1,2)\cup(3,4)", r"\{(1,2),(3,4)\}"), ("(1,2)", "(2,1)"),
        ("(1,2)", "[1,2]"), ("(1,2]", "[1,2)"), ("(1,2)", "1,2"), ("(1,2)", r"\{1,2\}"),
        (r"\{1,2\}", "(1,2)"), ("[1,2]", "(1,2]"), ("1,2,3", "1,2"), ("1", "1,2"), ("1,2", "1"),
        ("(1,2,3)", "(1,2)"), (r"(1,2)\cup(3,4)", "(1,2),(3,4)"), (r"1 \cup 2", "1,2"), ("(12)", "(1,2)"),
        (r"(-\infty,\infty)", r"(\infty,-\infty)"), (r"(-\infty,5)", r"(-\infty,5]"),
        (r"(\infty,5)", r"(-\infty,5)"), (r"\{42\}", "42"), ("[42]", "42"), (r"\{\{1\},2\}", r"\{1,2\}"),
        ("(1,(2,3))", "(1,2,3)"), ("2", r"\pm 2"), (r"\pm 2", "2"), (r"\emptyset", r"\{0\}"),
        ("(1;2)", "(1,2)"), ("1-2", "(1,2)"), (r"\{1,2,3\}", r"\{1,2,2\}"),
        (r"(1,2)\cap(3,4)", r"(1,2)\cup(3,4)"), ("(1,2", "(1,2)"), (r"(0,1)\cup(1,2)", "(0,2)")],
    "hidden and commented": [(r"\phantom{4}2", "42"), (r"2\phantom{4}", "2"), (r"\hphantom{-}42", "-42"),
        ("4%\n2", "42"), (r"42\tag{43}", "42"), (r"42\label{x}", "42"),
        (r"\color{white}41\color{black}42", "42"), (r"42^{\ast}", "42"), (r"\cancel{41}42", "42"),
        (r"\overset{41}{42}", "42"), (r"\underbrace{42}_{43}", "42"), ("42_{8}", "42"), ("101_2", "101"),
        (r"\overline{42}", "42"), ("0.\\overline{42}", "0.42"), (r"\hat{42}", "42"), ("42'", "42"),
        (r"\boxed{42", "42"), ("42}", "42"), ("{42", "42"), ("(42", "42"), (r"\left(42", "42"),
        ("$42", "-42"), (r"\begin{array}{c}42\\43\end{array}", "42"), ("<b>42</b>", "42")],
    "exponents": [("4^2", "42"), ("42^2", "42"), ("42^{2}", "42"), ("42\u00b2", "42"), ("2^{3^2}", "64"),
        ("2^3^2", "512"), ("2^3^2", "64"), ("-2^2", "4"), ("2^34", "32"), ("10^3", "30"), ("2e3", "2"),
        ("1e3", "10^4"), ("9**9**9", "9"), ("9^9^9", "9"), ("42^0", "42"), ("x^2", "2x"),
        (r"\frac{1}{2}^2", "1/2"), ("4^{1/2}", "-2"), ("42!", "42")],
    "homoglyphs and other digits": [("4\u0662", "42"), ("\u0664\u0662", "42"), ("4\u200b2", "42"),
        ("42\u200b", "41"), ("\u200d42\u200d43", "42"), ("4O", "40"), ("1O", "10"), ("O", "0"), ("l", "1"),
        ("I", "1"), ("l2", "12"), ("S", "5"), ("\u2074\u00b2", "42"), ("\u0445", "x"), ("\u0410", "A"),
        ("\u0391", "A"), ("\u2160", "1"), ("\u2468", "9"), ("\ufb01ve", "five"), ("\u00bd", "2"),
        ("4\u00a02", "42"), ("4\u20092", "42"), ("42\u20e3", "42"), ("\u202e24", "42"), ("x\u0305", "x")],
    "letters and words": [("B", "A"), ("A or B", "A"), ("A, B", "A"), ("AB", "A"), ("A and not B", "A"),
        ("not A", "A"), ("(A)(B)", "A"), ("A B", "A"), ("A/B", "A"), ("ABCD", "A"), ("K", "A"), ("no", "yes"),
        ("yes or no", "yes"), ("not yes", "yes"), ("yes no", "yes"), ("yes, no", "yes"), ("sey", "yes"),
        ("tca", "cat"), ("evne", "even"), ("even or odd", "even"), ("odd", "even"), ("noteven", "even"),
        ("(on)", "(no)"), ("2 god", "2 dog"), (r"\text{yes}\text{no}", "yes"), ("e", "A"), ("True", "1"),
        ("False", "0"), ("None", "0"), ("nan", "0"), ("inf", r"\infty"), ("nan", "42"), ("infinity", "42"),
        ("X - Y", "x - y"), ("X-Y", "x-y"), ("-X", "-x"), ("XY", "xy"), ("xy'", "xy")],
    "code": [("int('42')", "42"), ("print(42)", "42"), ("eval('42')", "42"), ("0x2a", "42"),
        ("0b101010", "42"), ("42j", "42"), ("42L", "42"), ("42f", "42"), ("lambda: 42", "42"),
        ("[42][0]", "42"), ("6*7#", "42"), ("__import__('os')", "0"), ("42;", "42"),
        ("42 if True else 43", "42"), ("84//2", "42"), ("128 % 43", "42"), ("40|2", "42"), ("43^1", "42"),
        ("max(41,42)", "42"), ("42==42", "42"), ("x:=42", "42"), ("{'a':42}", "42")],
    "variables and functions": [(r"\sin(x)y", r"\sin(xy)"), ("x", "5"), ("42x", "42"), ("42+x", "42"),
        ("x^2", "x"), ("x+1", "x-1"), ("xy", "x+y"), ("a+b", "a-b"), ("2x", "x^2"), ("x^0", "x"), ("0x", "x"),
        ("x_1", "x_2"), ("x", "x'"), ("e", "2.718281828459045"), ("|x|", "x"), (r"\sin x", "x"),
        (r"\sin 2x", r"x\sin 2"), (r"\log_2 x", r"\log_3 x"), (r"\ln x", r"\log x"), (r"\sin^2 x", r"\sin x"),
        ("1/0", "0"), ("0/0", "1"), ("0^0", "0"), ("1/(x-x)", "0"), ("(x-1)(x+1)", "x^2+1"),
        (r"\frac{x}{y}", r"\frac{y}{x}"), ("i", "-i"), ("2i", "2"), (r"\sqrt{-1}", "1"), ("n!", "n"),
        ("5!", "5")],
    "near values": [("3.14 m", r"\approx 3.14 cm"), ("3.14", r"\pi"), ("22/7", r"\pi"),
        ("3.141592653589793", r"\pi"), ("1.41421356", r"\sqrt2"), ("1.4142135623730951", r"\sqrt{2}"),
        ("0.333", "1/3"), ("0.3333333333333333", r"\frac13"), ("0.67", "2/3"), ("0.30000000000000004", "0.3"),
        ("9007199254740993", "9007199254740992"), ("1e16", "10000000000000001"),
        ("42.0000000000000001", "42"), ("3.15", r"\approx 3.14"), ("3.1", r"\approx 3.14"),
        ("0.65", "0.66..."), (r"\sqrt{2}+\sqrt{3}", r"\sqrt{5}"), (r"\sqrt{2}+\sqrt{3}", r"\pi"),
        (r"\sqrt{2}", r"-\sqrt{2}"), (r"1+\sqrt2", r"1-\sqrt2"), (r"\frac{1}{2}", r"\frac{2}{1}"),
        (r"\sqrt[3]{2}", r"\sqrt{2}"), ("-42", "42"), (r"2\sqrt{3}", r"3\sqrt{2}"), (r"e^{\pi}-\pi", "20"),
        (r"\frac{355}{113}", r"\pi"), ("", "42"), (".", "42"), (r"e^{\pi\sqrt{163}}", "262537412640768744"),
        ("2 1/2", "1"), (r"2\frac{1}{2}", "1"), (r"-2\frac{1}{2}", "-1.5")],
}


@pytest.mark.parametrize("text,gold", [pair for pairs in WRONG.values() for pair in pairs])
def test_another_value_is_wrong(text, gold):
    assert not same_answer(text, gold)


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_answer_is_not_rewarded_in_a_completion(kind):
    texts, golds = zip(*WRONG[kind][:5], strict=True)
    assert math_reward([wrap(t) for t in texts], list(golds)) == [0.0] * len(texts)


# ----------------------------------------------------------- the rules as pairs, written before the code

RULES = {  # kind: ([(given, gold) that are right], [(given, gold) that are wrong])
    "percent": ([("60%", "60"), ("60", r"60\%"), ("0.6", "60%"), ("60%", "0.6"), (r"60\%", r"\frac{3}{5}"),
        ("60 percent", "60"), ("60 per cent", r"60\%"), (r"60\text{ percent}", "0.60"), ("33 1/3%", "1/3"),
        (r"33\frac{1}{3}\%", "33 1/3 %"), ("x = 60%", "60"), ("60%, 40%", "0.6, 0.4"), ("0.5%", "0.005"),
        ("60\uff05", "60%"), ("60% of the students", "60"), (r"-5\%", "-5")],
        [("60", "0.6"), ("0.6", "60"), ("50", "1/2"), ("1/2", "50"), ("6%", "60"), ("0.06", "60%"),
        ("6", "60%"), ("600", "60%"), ("60%", "6"), ("60%", "6000"), ("6000", "60%"), ("60% or 0.6", "60%"),
        ("60%, 0.6", "0.6"), ("60%", "60 cm"), ("60%", r"\$60"), ("50% of 84", "42"), ("60%%", "60"),
        ("-60%", "60"), ("60% or 61%", "60"), ("60-61%", "60"), ("0.6%", "60"), ("60%", "0.6%"),
        ("60% more than 10", "16")]),
    "words after a number": ([("18 ducks", "18"), ("18 gallons", "18"), ("18 years old", "18"),
        (r"18\text{ ducks}", "18"), ("18 more ducks", "18"), ("18 gallons of milk", "18"), ("18 times", "18"),
        ("18 ducks in total", "18"), ("-18 sprockets", "-18"), ("1,800 widgets per day", "1800"),
        (r"\$18 per hour", "18"), (r"\$18 \text{ each}", r"\$18"), ("2 1/2 pies", "2.5"), ("18.5 km", "18.5"),
        (r"\frac{1}{2}\text{ of the cake}", "0.5"), ("x = 18 ducks", "18"), ("18 sq. ft.", "18"),
        ("18 girls", "18 girls"), ("18 white ducks", "18 ducks"), ("18", "18 ducks"),
        ("18.0 boxes", "18 box"), ("18 students\u2019 books", "18"), ("12 months", "12"), ("18 stones", "18"),
        ("9 attendants", "9")],
        [("7 hundred", "7"), ("18 or 19 ducks", "18"), ("18 of 20", "18"), ("18 out of 20", "18"),
        ("18 dozen", "18"), ("18 more than 5", "18"), ("18 more than five", "18"), ("18 ducks", "19"),
        ("18 ducks or nineteen", "18"), ("18 thousand dollars", "18"), ("2 and a half", "2"),
        ("18 halves", "18"), ("18 hundredths", "18"), ("18 twenty-firsts", "18"), ("18 geese", "18 ducks"),
        ("18 ducks", "18 cm"), ("18 not", "18"), ("not 18", "18"), ("18, no 19", "18"),
        ("18 ducks 19 geese", "18"), ("ducks 18", "18"), ("18 ducks, 19 geese", "18"),
        ("18 fewer than twenty", "18"), ("18 at most", "18"), ("18 minus", "18"), ("18 below zero", "18"),
        ("18 squared", "18"), ("18 in base nine", "18"), ("18 over five", "18"), ("18th", "18"),
        ("5 mil", "5"), ("5 grand", "5"), ("5 k", "5"), ("5 bn", "5"), ("5 pi", "5"), ("5 theta", "5"),
        ("5 sin", "5"), ("5 root two", "5"), ("18 plus one", "18"), ("18 twice", "18"),
        ("between 18 and 19", "18"), ("18 to 19", "18"), ("18 through nineteen", "18"), ("about 18", "18"),
        ("at least 18", "18"), ("18 is wrong", "18"), ("18ducks19", "18"), ("18 ducks", "1"),
        ("18 ducks", "8"), ("18 percent", "18 ducks"), ("18 dollars", "18 euros"), ("half of 36", "18"),
        ("18 negative", "18")]),
    "a gold with a remark": ([("9", "9 (apples)"), ("9 apples", "9 (apples)"), ("9 (apples)", "9"),
        (r"9\text{ (apples)}", "9"), ("9.0", "9 (in total)"), (r"\frac{18}{2}", "9 (apples)")],
        [("9 (or 10)", "9"), ("9 (ten)", "9"), ("9 (not)", "9"), ("8", "9 (apples)"), ("9 (hundred)", "9"),
        ("9 (x)", "9"), ("9 (10)", "9"), ("9 (pears)", "9 (apples)"), ("9 (apples) 10", "9"),
        ("9(ab)", "9")]),
    "matrices": ([(r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"),
        (r"\begin{pmatrix}\frac13\\2\end{pmatrix}", r"\begin{pmatrix} 1/3 \\ 2 \end{pmatrix}"),
        (r"\begin{bmatrix}0.5&2\\3&4\\\end{bmatrix}",
        r"\begin{pmatrix} \frac{1}{2} & 2 \\ 3 & 4 \end{pmatrix}"),
        (r"\left[\begin{matrix}1\\2\end{matrix}\right]", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"\left(\begin{array}{cc}1&2\\3&4\end{array}\right)", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
        (r"\begin{pmatrix}\sqrt8&x+x\end{pmatrix}", r"\begin{pmatrix}2\sqrt2 & 2x\end{pmatrix}"),
        (r"A = \begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
        (r"$\begin{pmatrix} -1/3 \\[2pt] 2/3 \end{pmatrix}$",
        r"\begin{pmatrix} -\frac{1}{3} \\ \frac23 \end{pmatrix}"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\ \dfrac{4}{2}\end{pmatrix}")],
        [(r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"),
        (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
        (r"\begin{pmatrix}1\\2\\3\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"\begin{pmatrix}12\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "1,2,3,4"), (r"\begin{pmatrix}42\end{pmatrix}", "42"),
        (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
        (r"\begin{pmatrix}1&2\\3\end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}\begin{pmatrix}3\\4\end{pmatrix}",
        r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"2\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"\begin{pmatrix}1\\2\end{pmatrix} or \begin{pmatrix}3\\4\end{pmatrix}",
        r"\begin{pmatrix}1\\2\end{pmatrix}"), (r"\begin{pmatrix}1\\2", r"\begin{pmatrix}1\\2\end{pmatrix}")]),
    "vectors": ([(r"\langle 1, 2 \rangle", r"\langle 1,2.0 \rangle"),
        ("\u27e81,2\u27e9", r"\langle 1,2\rangle"), (r"\langle 1,2\rangle", "(1,2)"),
        ("(1, 2)", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"\left\langle \frac12, 2\right\rangle", r"\langle 0.5,2\rangle"), (r"\vec{v} = (1,2)", "(1,2)"),
        ("(x,y) = (1,2)", "(1, 2)")],
        [(r"\langle 2,1\rangle", r"\langle 1,2\rangle"), (r"\langle 1,2\rangle", "[1,2]"),
        ("(x,y)=(2,1)", "(1,2)"), (r"\langle 1,2\rangle", "1,2"),
        ("(1,2,3)", r"\begin{pmatrix}1\\2\end{pmatrix}"), ("(2,1)", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        ("(y,x)=(1,2)", "(x,y)=(1,2)"), ("(1,2)", "(-1,2)")]),
    "lists of tuples": ([("(3,4),(1,2)", "(1,2),(3,4)"), ("(0.5,1),(2,3)", r"(\frac12,1),(2,3)"),
        (r"\{(3,4),(1,2)\}", "(1,2), (3,4)"), ("(1,2) and (3,4)", "(3,4), (1,2)"),
        (r"(1,2) \text{ or } (3,4)", "(1,2),(3,4)"), ("$(1,2)$, $(3,4)$", "(3,4),(1,2)"),
        ("(1,2),(3,4),(5,6)", "(5,6), (1,2) , (3,4)"), (r"(\sqrt8,1),(1,2)", r"(1,2),(2\sqrt2,1)")],
        [("(2,1),(3,4)", "(1,2),(3,4)"), ("(1,2)", "(1,2),(3,4)"), ("(1,2),(3,4)", "(1,2)"),
        ("(1,2,3,4)", "(1,2),(3,4)"), ("(1,4),(3,2)", "(1,2),(3,4)"), ("(1,2),(3,4),(5,6)", "(1,2),(3,4)"),
        ("(1,2)(3,4)", "(1,2),(3,4)"), ("((1,2),(3,4))", "(1,2),(3,4)"), ("[1,2],[3,4]", "(1,2),(3,4)"),
        ("1,2,3,4", "(1,2),(3,4)")]),
    "bases": ([("52_{8}", "52_8"), (r"52_\text{8}", "52_8"), ("52\u2088", "52_8"),
        (r"52_{\text{eight}}", "52_8"), (r"52 \text{ (base 8)}", "52_8"), ("52 base 8", "52_{8}"),
        ("1A_{16}", "1a_{16}"), ("12_{10}", "12"), (r"2516_{\,8}", "2516_8"), ("x = 52_8", "52_{8}"),
        ("052_8", "52_8")],
        [("52_8", "52"), ("52", "52_8"), ("52_8", "52_9"), ("53_8", "52_8"), ("42", "52_8"), ("52_8", "42"),
        ("52_{80}", "52_8"), ("5_28", "52_8"), ("92_8", "92"), ("52_8 or 53_8", "52_8"), ("-52_8", "52_8"),
        ("52^8", "52_8"), ("52_8, 53_8", "52_8")]),
    "and, or, names": ([("1, 2", "1 and 2"), ("1 and 2", "2, 1"), (r"x=1 \text{ or } x=2", "1, 2"),
        ("x=2, x=1", "x=1, x=2"), ("x = 1, 2", "x=1 or x=2"), ("1, 2, and 3", "1,2,3"),
        ("1, 2 or 3", "{3,2,1}"), (r"x=1\text{ and }x=2", r"\{1,2\}"), (r"x = 1 \lor x = 2", "x=1,2"),
        ("x=1 \u2228 x=2", "1, 2"), ("y=2, x=1", "x=1,y=2"), (r"x = 1 \quad\text{or}\quad x = 2", "1,2"),
        ("x = 0.5 or x = -3", r"-3, \frac12"), (r"x_1 = 1, x_2 = 2", "x_2=2, x_1=1"), ("2 or -2", r"\pm 2"),
        (r"\{1\pm\sqrt5,-2\}", r"-2, 1-\sqrt5, 1+\sqrt5")],
        [("1 or 2", "1"), ("1 and 2", "1"), ("x=1 or x=2", "1"), ("x=1 or x=2", "2"), ("x=1, x=2", "x=1"),
        ("1", "1 or 2"), ("x=1", "x=1 or x=2"), ("x=1 or x=3", "x=1 or x=2"), ("x=1 or y=2", "x=1 or x=2"),
        ("1 or 2 or 3", "1, 2"), ("2, 1", "x=1, y=2"), ("x=2, y=1", "x=1, y=2"), ("1 and 2", "12"),
        ("1 and 2", "3"), ("1 and 2 or 3", "1,2"), ("neither 1 nor 2", "1,2"), ("1 or 1", "1"),
        ("1 and/or 2", "1"), ("x=1 or x=1", "x=1"), ("either 1 or 2", "1"), ("1 but not 2", "1"),
        ("between 1 and 2", "1, 2"), ("from 1 to 2", "1, 2"), ("1 xor 2", "1")]),
    "dollar signs around items": ([("69, 84", "$69$,$84$"), ("$69$, $84$", "84,69"),
        (r"\(69\), \(84\)", "69,84"), ("$69$ and $84$", "69, 84"), ("$x=1$ or $x=2$", "1,2"),
        (r"$18$ ducks", "18"), ("$(1,2)$", "(1,2)")],
        [("$69$ $84$", "6984"), ("$6$9", "69"), ("$69$,$85$", "$69$,$84$"), ("$69$", "$69$,$84$"),
        ("$4$2", "42"), ("$69$ or $84$", "69"), (r"\(6\)\(9\)", "69"), ("$1$,$000$", "1000")]),
    "equations": ([("x^{2}+y^{2}=13", "x^2+y^2=13"), ("y^2+x^2 = 13", "x^2+y^2=13"),
        ("13=x^2+y^2", "x^2+y^2=13"), ("x^2+y^2-13=0", "x^2+y^2=13"), ("2x^2+2y^2=26", "x^2+y^2=13"),
        ("5x-7y+11z+4=0", "5x - 7y + 11z = -4"), ("y=2x+3", "2x-y+3=0"), ("2x+3=y", "y = 2x + 3"),
        (r"\frac{x^2}{4}+\frac{y^2}{9}=1", "9x^2+4y^2=36"), ("f(x)=2x+3", "f(x) = 3+2x"),
        ("y=\u22122x", "y = -2x")],
        [("x^2+y^2=12", "x^2+y^2=13"), ("x^2-y^2=13", "x^2+y^2=13"), ("x^2+y^2", "x^2+y^2=13"),
        ("13", "x^2+y^2=13"), ("x^2+y^2=13=13", "x^2+y^2=13"), ("x^2+y^2<13", "x^2+y^2=13"), ("2x=42", "21"),
        ("2x=42", "x=21"), ("x=x", "x^2+y^2=13"), ("0=0", "x+y=1"), ("x+y=1", "x+y=2"), ("2y=4x+6", "y=2x+3"),
        ("y=2x+3", "y=3x+2"), ("42=42", "42"), ("x+y=1 or x+y=2", "x+y=1"), ("x+y=1, x+y=2", "x+y=1"),
        (r"x^2+y^2\ne13", "x^2+y^2=13")]),
    "relations and intervals": ([(r"-1 \leq x < 3", r"-1 \le x < 3"), (r"3 > x \ge -1", r"-1 \le x<3"),
        (r"x \geqslant 3", r"x \ge 3"), (r"x\leqslant 0.5", r"x \le \frac12"), (r"-1 \le x < 3", "[-1,3)"),
        (r"x \in [-2,7]", r"-2 \le x \le 7"), ("x > 2", r"(2,\infty)"), (r"[2, \infty)", r"x \ge 2"),
        ("x<1 or x>2", r"(-\infty,1)\cup(2,\infty)"), ("-1<=x<3", r"-1 \leq x < 3"),
        ("-1 \u2264 x < 3", r"-1 \le x<3"), (r"0 < \theta < \pi", r"(0,\pi)"),
        (r"(-\infty, +\infty)", r"(-\infty,\infty)"), (r"x \neq 3", r"x \ne 3.0"),
        (r"\mathbb{R}", r"(-\infty,\infty)"), ("a < b < c", "c > b > a"), (r"x+y \le 3", r"y + x \leq 3"),
        (r"+\infty", r"\infty"), (r"x \in (-1,3)", "(-1,3)"),
        ("\uff080,1\uff09\u222a\uff082,3\uff09", r"(2,3)\cup(0,1)")],
        [(r"-1 < x < 3", r"-1 \le x < 3"), (r"-1 \le x \le 3", r"-1 \le x < 3"),
        (r"-1 \le y < 3", r"-1 \le x < 3"), (r"-1 \le x < 4", r"-1 \le x < 3"),
        (r"3 \le x < -1", r"-1 \le x < 3"), (r"-1 \le x", r"-1 \le x < 3"), ("x < 3", "3"),
        ("1 < 2 < 3", "2"), ("1 < x < 3", "2"), ("x > 2", r"(-\infty,2)"), ("x > 2", r"[2,\infty)"),
        (r"x \le 3", r"x \ge 3"), ("x<1 and x>2", r"(-\infty,1)\cup(2,\infty)"),
        ("x<1 or x>3", r"(-\infty,1)\cup(2,\infty)"), ("(1,3)", "1 < x < 4"), ("x+y < 3", r"x+y \le 3"),
        ("x+y > 3", "x+y<3"), (r"-\infty", r"\infty"), ("1<x>3", "(1,3)"), (r"(0,1)\cup(2,3)", "(0,1),(2,3)"),
        ("x < 18 or 19", "x < 18"), ("17 < x < 19", "18"), (r"(0,1)\cap(2,3)", r"(0,1)\cup(2,3)"),
        (r"x \notin [-1,3)", "[-1,3)")]),
    "unicode": ([("\u20135", "-5"), ("\u20145", "-5"), ("\uff0d5", "-5"), ("\uff14\uff12", "42"),
        ("42\u200b", "42"), ("\ufeff42", "42"), ("\u00bd", "1/2"), ("2\u00bd", "5/2"), ("\u2154", r"\frac23"),
        ("\u03b8", r"\theta"), ("x\u00b2", "x^2"), ("2\u00b9\u2070", "1024"), ("x\u207b\u00b9", r"\frac1x"),
        ("2\u03c0r", r"2\pi r"), ("\u221b8", "2"), ("\uff081\uff0c2\uff09", "(1,2)"), ("42\u3002", "42"),
        ("\u2205", r"\emptyset"), ("x \u2a7e 3", r"x \ge 3"), ("1\u202f000", "1000"),
        ("A \u2192 B", r"A \to B"), ("\uff21", "A"), ("3\u20444", "3/4"), ("45\u00ba", r"45^\circ"),
        ("\U0001d7d2\U0001d7d0", "42"), ("\U0001d465\u00b2", "x^2"), ("42\u00a0cm", "42"),
        ("\u201cyes\u201d", "yes"), ("\u0394", r"\Delta"), ("log\u2082 8", "3"), ("\uff0442", "42"),
        ("x\u2217y", "xy"), ("5\u00a2", "5 cents"), ("\u221a(2)", r"\sqrt2")],
        [("\u20135", "5"), ("1\u20132", "-1"), ("4\u200b2", "42"), ("\uff14\uff13", "42"), ("\u00bd", "2"),
        ("2\u00bd", "1"), ("x\u2082", "x^2"), ("x\u00b2", "x_2"), ("10\u00b2", "102"), ("\u2154", "23"),
        ("\u03b1", "a"), ("\u0391", "A"), ("\u0410", "A"), ("\u0664\u0662", "42"), ("\u2468", "9"),
        ("\u2160", "1"), ("\u202e24", "42"), ("\u221a2", "2"), ("\u03c0", "3.14"), ("A \u2190 B", r"A \to B"),
        ("4\uff0c2", "42"), ("\u00b12", "2"), ("\u03bc", "m"), ("42\u20e3", "42")]),
    "markdown": ([("**42**", "42"), ("*42*", "42"), ("`42`", "42"), ("***42***", "42"), ("__42__", "42"),
        ("**$42$**", "42"), ("$\\mathbf{42}$", "42"), ("**42** ducks", "42"), ("**(1,2)**", "(1,2)"),
        ("_yes_", "yes"), ("**Yes.**", "yes"), ("**x = 5**", "5"), ("```\n42\n```", "42"), ('"42"', "42"),
        ("**1**, **2**", "1,2")],
        [("**41** **42**", "42"), ("~~42~~", "42"), ("**4**2", "42"), ("2**3**2", "232"), ("**42", "42!"),
        ("4*2", "42"), ("*4*2", "42"), ("`4` `2`", "42"), ("**41** or **42**", "42"), ("~~41~~ 42", "42"),
        ("**42**43", "42"), ("_4_2", "42")]),
    "functions with a value": ([(r"\binom{5}{2}", "10"), (r"\dbinom{10}{3}", "120"), (r"{5 \choose 2}", "10"),
        (r"\binom{n}{2}", r"\frac{n(n-1)}{2}"), (r"\log_2 8", "3"), (r"\log_{10} 1000", "3"),
        (r"\log_4 8", "3/2"), (r"\log_2 \frac18", "-3"), (r"\ln e^2", "2"), (r"\ln 8", r"3\ln 2"),
        (r"\log_2 6", r"1+\log_2 3"), (r"\ln e", "1"), (r"\frac{\ln 8}{\ln 2}", "3"),
        (r"\sin 30^\circ", r"\frac12"), (r"\cos 120^{\circ}", "-0.5"), (r"\tan 45^\circ", "1"),
        (r"\sin\frac{\pi}{3}", r"\frac{\sqrt3}{2}"), (r"\cos(\pi)", "-1"),
        (r"\sin 15^\circ", r"\frac{\sqrt6-\sqrt2}{4}"), (r"\sin^2 60^\circ", "3/4"), (r"\sec 60^\circ", "2"),
        (r"\sin(-30^\circ)", "-1/2"), ("\\sin 30\u00b0", "0.5"), ("2**10", "1024"), ("x**2 + 1", "x^2+1"),
        (r"\lfloor 3.7 \rfloor", "3"), (r"\lceil 3.2 \rceil", "4"), ("1.5 x 10^3", "1500"),
        (r"(\sin x)^2", r"\sin^2 x"), (r"\tan\frac{3\pi}{4}", "-1"), ("2**-1", "0.5")],
        [(r"\binom{5}{2}", "5/2"), (r"\binom{5}{2}", "20"), (r"\binom{2}{5}", "10"), (r"\log_2 8", "4"),
        (r"\log_3 8", "3"), (r"\log_8 2", "3"), (r"\ln 8", "3"), (r"\ln 10", "1"), (r"\log_2 8", r"\log_3 8"),
        (r"\sin 30", r"\frac12"), (r"\sin 30^\circ", r"\frac{\sqrt3}2"), (r"\cos 30^\circ", r"\frac12"),
        (r"\tan 90^\circ", "0"), (r"\sin 60^\circ", "60"), (r"\sin 210^\circ", "1/2"), ("2*10", "2**10"),
        ("2**10", "20"), ("10**2", "1024"), (r"\log_{-2} 8", "3"), (r"\log_1 8", "3"), (r"\log_2 0", "0"),
        (r"\sin^{-1} x", r"\frac{1}{\sin x}"), (r"\binom{1/2}{2}", "1/4"), (r"\log_2 (-8)", "3"),
        (r"\lfloor 3.7 \rfloor", "4"), (r"\sin 30^\circ", "30")]),
    "empty set": ([(r"\emptyset", r"\varnothing"), (r"\{\}", r"\emptyset"),
        (r"x \in \emptyset", r"\varnothing")],
        [(r"\emptyset", "0"), (r"\{\emptyset\}", r"\emptyset"), (r"\{0\}", r"\emptyset"),
        ("0", r"\varnothing"), ("", r"\emptyset")]),
    "times of day": ([("5:30 p.m.", r"5:30\text{ p.m.}"), ("5:30 PM", "5:30 p.m."),
        ("5:30pm", r"5\!:\!30 \text{ p.m.}"), ("17:30", "5:30 p.m."), ("5 p.m.", "5:00 PM"),
        ("05:30", "5:30"), ("5:30", r"5:30\text{ a.m.}"), ("12:00 a.m.", "0:00")],
        [("5:30 a.m.", "5:30 p.m."), ("5:31 p.m.", "5:30 p.m."), ("6:30 p.m.", "5:30 p.m."), ("530", "5:30"),
        ("5.5", "5:30"), ("5:03", "5:30"), ("5:30 or 6:30", "5:30"), ("5", "5:30 p.m."),
        ("17:30", "5:30 a.m."), ("5:30 p.m.", "17"), ("5/30", "5:30")]),
    "ratios": ([("3:4", "3 : 4"), (r"3\colon4", "3:4"), ("1:2:3", "1 : 2 : 3.0")],
        [("4:3", "3:4"), ("3:4:5", "3:4"), ("3:4", "3"), ("3:4", "34"), ("3:4 or 4:3", "3:4")]),
    "latex layout": ([(r"\left\{1,\dfrac12\right\}", r"\{0.5,1\}"), (r"\Big(1,2\Big)", "(1,2)"),
        (r"1,2,\ldots,9", r"1,2,\dots,9"), (r"\text{Evelyn}", "evelyn"), (r"2\tfrac{1}{2}", "2.5"),
        (r"\frac 59", "5/9"), (r"11,\! 111,\! 100", "11111100"), (r"864 \mbox{ inches}^2", "864"),
        (r"\mathrm{e}^{2}", "e^2"), (r"\lvert -5 \rvert", "5"), (r"5\,\mathrm{cm}", "5 cm"),
        (r"90\degree", "90"), (r"\text{(C)}", "C"), (r"\boxed{\textbf{42}}", "42"),
        (r"\lbrace 1,2 \rbrace", "2,1"), (r"42\\", "42"), (r"5\times3", "15"), (r"\frac{\frac12}{3}", "1/6"),
        (r"6\hspace{2pt}cm", "6 cm")],
        [(r"\left\{1,\dfrac12\right\}", r"\{2,1\}"), (r"1,2,\ldots,9", "1,2,9"), (r"\text{Eve}", "Evelyn"),
        (r"\frac{4}{2}", "42"), (r"4\hspace{2pt}2", "42"), (r"\text{4}\text{2}", "42"),
        (r"\left(1,2\right]", "(1,2)"), (r"\underline{4}2", "42"), (r"\phantom{1}42", "142"),
        (r"2\tfrac{1}{2}", "1"), (r"\frac{1}{2}3", "1.5")]),
    "numbers that words change": ([("5% of them", "5"), *((f"5 {word}", "5") for word in """left remaining
        ducks kilos meters losers""".split()), ("5 missing pieces", "5"), ("5 short sides", "5")],
        [*((f"5 {words}", "5") for words in re.split(r"\|\s*", """nope|fails|failed|rejected|untrue|unlikely|
        loss|ruled out|debt|short|wrong|incorrect|maybe|perhaps|probably|is false|too many|missing|below zero|
        doubled|percent more|tripled|and counting|at least|or so|plus|minus|kilo|mega|giga|micro|nano|milli|
        permille|ppm|fold|hundredfold|impossible|doubtful|refuted|disproved|cannot be|wasnt it|can't be|
        might be|supposedly|owed|overdrawn|up|upwards|circa|reversed|quartered|mio|myriad|mistaken|not quite|
        hardly|ducks short""")),
        ("0.3 repeating", "0.3"), (r"0.3 \text{ repeating}", "0.3"), ("0.3 (recurring)", "0.3"),
        (r"5\text{-fold}", "5"), ("5-fold", "5"), ("5%% more", "5"), ("$5 in debt", "5")]),
    "openings and names": ([("option B", "B"), ("Option (B)", "B"), ("choice B", "B"), ("Answer: B", "B"),
        (r"\textbf{Option B}", "B"), ("The answer is (B).", "B"), ("Final answer: 42", "42"),
        ("The answer is 42", "42"), ("The final answer is: $\\boxed{42}$.", "42"),
        ("**Final answer:** 42", "42"), ("The answer is yes", "yes"), ("the answer is x = 5", "5"),
        ("area = 5", "5"), ("AB = 5", "5"), (r"\text{area} = 5", "5"), (r"\text{Area} = 5\pi", r"5\pi"),
        ("total cost = $5", "5"), ("max = 5", "5"), (r"\angle ABC = 30^\circ", "30"), ("5", "area = 5"),
        ("perimeter = 5 cm", "5 cm")],
        [("option A", "B"), ("option A or B", "B"), ("not option B", "B"), ("The answer is not 42", "42"),
        ("The answer is 41 or 42", "42"), ("Final answer: 41", "42"), ("I guess the answer is 42", "42"),
        ("area = 5", "x = 5"), ("The answer is about 42", "42"), ("The answer isn't 42", "42"),
        ("area = 5", "perimeter = 5"), ("area = 5 = 6", "5"), ("area = 6, 5", "5"), ("half area = 5", "5"),
        ("negative = 5", "5"), ("ab = 5", "5"), ("twice x = 5", "5"), ("untrue = 5", "5"), ("area < 5", "5"),
        ("2 AB = 5", "5"), ("doubled area = 5", "5"), ("area squared = 5", "5")]),
    "units in parts": ([("3 hr 20 min", "3 hours 20 minutes"), ("3 hours and 20 minutes", "3 h 20 min"),
        ("5 ft. 3 in.", "5 feet 3 inches"), (r"3\text{ hours } 20 \text{ minutes}", "3 hours, 20 minutes"),
        (r"25 ms^{-1}", "25 m/s"), (r"25 \text{ m s}^{-1}", "25 m/s"), (r"9.8\ ms^{-2}", "9.8 m/s^2"),
        (r"60 \text{ km h}^{-1}", "60 km/h"), ("5m", "5 m"), ("5 m", "5m"), ("2.5L", "2.5 liters")],
        [("3 hr 20 min", "3"), ("3 hr 20 min", "3 hr 30 min"), ("3 hr", "3 hr 20 min"),
        ("3 hr 20 min", "3 hr 20 s"), ("3 min 20 hr", "20 hr 3 min"), ("3 hr 20 cm", "3 hr"),
        ("25 ms^{-1}", "25 m"), ("25 ms^{-1}", "25 m/s^2"), ("25 ms", "25 m/s"), ("5m", "5 cm"),
        ("5m", "6 m"), ("5 m 3 m", "5 m"), ("5m", "5 ducks")]),
    "names of values": ([("all real numbers", r"\mathbb{R}"), ("All real numbers", r"(-\infty,\infty)"),
        (r"\mathbb{R}", r"\text{all real numbers}"), (r"x \in \mathbb{R}", "all reals"),
        ("infinity", r"\infty"), (r"\infty", "Infinity"), ("-infinity", r"-\infty"),
        (r"(-infinity, 3]", r"(-\infty, 3]"), ("no solution", "No solutions"),
        ("No solutions.", r"\text{no solution}"), ("{}", r"\emptyset"), ("{ }", r"\{\}"),
        ("0.333...", r"\frac13"), (r"0.333\ldots", "1/3"), ("-0.1666...", r"-\frac{1}{6}"),
        ("0.121212\u2026", r"\frac{4}{33}")],
        [("real numbers not", r"\mathbb{R}"), ("all real numbers except 0", r"\mathbb{R}"),
        ("infinity", r"-\infty"), ("no solution", "one solution"), ("solution", "no solution"), ("{}", "0"),
        ("{}", ""), ("{{}}", r"\emptyset"), ("0.33...", r"\frac13"), ("0.333..", "1/3"), ("0.333...", "1/4"),
        ("0.333...", "0.333"), ("0.333...4", "1/3"), ("0.3...", "1/3"), ("all", r"\mathbb{R}"),
        ("0.334...", "1/3"), ("ye", "yes")]),
    "functions by others": ([(r"\exp(2)", "e^2"), ("exp(2x)", "e^{2x}"), (r"\ln \exp(3)", "3"),
        (r"\arctan 1", r"\pi/4"), (r"\arcsin\frac12", r"\frac{\pi}{6}"),
        (r"\arccos(-\frac{\sqrt2}{2})", r"\frac{3\pi}4"), (r"\tan^{-1}(-\sqrt3)", r"-\pi/3"),
        (r"\sin^{-1}(1)", r"\pi/2"), ("arctan(1/sqrt(3))", r"\pi/6"), (r"2\arctan 1 + x", r"\frac{\pi}{2}+x"),
        (r"\arcsin 0", "0"), (r"\sec x", r"\frac{1}{\cos x}"), (r"\tan x", r"\frac{\sin x}{\cos x}"),
        (r"\tan x \cot x", "1"), (r"\csc^2 (2x)", r"\frac{1}{\sin^2 2x}"),
        (r"\cot x", r"\frac{\cos x}{\sin x}"), (r"\cot x\sin x", r"\cos x"), ("y-3=2(x-1)", "y=2x+1"),
        ("2x-y+1=0", "y=2x+1"), ("y - x^2 = 1", "y=x^2+1")],
        [(r"\exp(2)", "e^3"), (r"\arctan 1", r"\pi/3"), (r"\arctan 1", r"5\pi/4"),
        (r"\arcsin\frac12", r"\frac{5\pi}{6}"), (r"\arccos(-1)", r"-\pi"), (r"\arctan 2", r"\pi/3"),
        (r"\arcsin\frac13", r"\frac{\pi}{9}"), (r"\arccos\frac{1}{2}", "60"),
        (r"\arcsin\sqrt{(x-1)^2}", r"\arcsin (x-1)"), (r"\arcsin x", r"\frac{1}{\sin x}"),
        (r"\sec x", r"\frac{1}{\sin x}"), (r"\arcsin\frac{\sqrt{2-\sqrt3}}{2}", r"-\frac{\pi}{12}"),
        (r"\tan x", r"\frac{\cos x}{\sin x}"), (r"\tan x", r"\frac{\sin x}{\cos y}"), (r"\sec x", r"\cos x"),
        (r"\csc x", r"\sec x"), ("2x=10", "x=5"), ("x-5=0", "x=5"), ("y-3=2(x-1)", "y=2x+2"),
        ("3y=6x+3", "y=2x+1"), ("y=2x+1=0", "y=2x+1")]),
    "guesses": ([],
        [("18 or 19", "18"), ("18/19", "18"), ("18, 19, 20", "19"), ("[18, 19]", "18"), ("18; 19", "18"),
        ("18 vs 19", "18"), ("17 < x < 19", "18"), ("18 (maybe 19)", "18"), ("18 ? 19", "18"),
        ("\\pm 18", "18"), ("18 or -18", "-18"), ("yes or no", "no"), ("A or B", "B"), ("A and B", "A"),
        ("18 = 19", "18"), ("18 - 19", "18"), ("18 \u2013 19", "18"), ("18, not 19", "18"), ("1 2 3 4", "3"),
        ("x=18, y=18", "x=18"), ("18 | 19", "18"), ("18 & 19", "18"), ("18+", "18"), ("18ish", "18"),
        ("~18", "18"), ("18?", "18"), (r"18 \text{ rather than } 19", "18"), (r"\{18\}", "18"), ("any", "18"),
        ("18 or more", "18"), ("eighteen (18)", "19"), ("18..19", "18"), ("x", "18"), ("18 and 18", "18"),
        ("18 & up", "18")]),
}
PAIRS = [(*pair, verdict, kind) for kind, both in RULES.items()
    for verdict, pairs in zip((True, False), both, strict=True) for pair in pairs]


def test_there_are_enough_pairs_of_both_verdicts():
    assert len(PAIRS) >= 220 and 0.4 < sum(not pair[2] for pair in PAIRS) / len(PAIRS) < 0.7


@pytest.mark.parametrize("text,gold,verdict,kind", PAIRS)
def test_the_rules_hold_for_every_pair(text, gold, verdict, kind):
    assert same_answer(text, gold) == verdict, kind


@pytest.mark.parametrize("completion", ["42", "<answer>42</answer>", "<think></think>42", wrap("42") + "42",
    "<think>x</think><answer>42", wrap("42</answer><answer>42"), wrap("<answer>42</answer>"), wrap("42") * 2,
    "<answer>42</answer><think></think>", wrap("42", "<think>"), wrap("42", "<answer>42</answer>"),
        "a" + wrap("42"),
    "<think>x</think>a<answer>42</answer>", "<think>x<answer>42</answer></think>", wrap("42").upper(), ""])
def test_missing_repeated_or_nested_tags_are_not_rewarded(completion):
    assert math_reward([completion], ["42"]) == [0.0] and format_reward([completion]) == [0.0]


@pytest.mark.parametrize("text,right", [(r"<think>x</think>So \boxed{42}.", 1),
    (r"<think></think>\boxed{\frac{84}{2}}", 1), (r"<think></think>\boxed{41} \boxed{42}", 0),
    (r"<think></think>\boxed{\boxed{42}}", 0), ("<think></think>42", 0), (r"<think>\boxed{42}</think>41", 0),
    (r"<think></think>\boxed{42", 0), (r"<think></think>\boxed{41}42", 0),
    (r"<think></think><answer>\boxed{42}</answer>", 0), (r"\boxed{42}", 0),
    (r"a<think></think>\boxed{42}", 0), (r"<think></think>\boxed{42}\boxed", 0),
    (r"<think></think>\boxed{41\}42}", 0)])
def test_the_boxed_form_takes_exactly_one_box_after_the_thinking(text, right):
    assert math_reward([text], ["42"], boxed=True) == [float(right)]


def test_a_value_is_the_same_whichever_side_it_stands_on():
    plain = [pair for kind in ("numbers", "fractions", "mixed numbers", "scientific notation", "sets",
        "expressions")
        for pair in RIGHT[kind]]
    assert [pair for pair in plain if not same_answer(pair[1], pair[0])] == []


# ----------------------------------------------------------------------------------- random: rational numbers

FAST = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
RATIONALS = st.one_of(st.integers(-10**7, 10**7).map(Fraction),
    st.builds(Fraction, st.integers(-999, 999), st.integers(1, 99)),
    st.builds(lambda n, k: Fraction(n, 10**k), st.integers(-10**6, 10**6), st.integers(0, 6)))


def decimal_of(value: Fraction) -> str | None:
    """The finite decimal of a value, or None."""
    for places in range(12):
        if value.denominator == 1 or 10**places % value.denominator == 0:
            digits = str(abs(value.numerator) * 10**places // value.denominator).zfill(places + 1)
            text = digits[: len(digits) - places] + ("." + digits[len(digits) - places :] if places else "")
            return "-" * (value < 0) + text
    return None


def repeating(value: Fraction) -> str | None:
    """0.1\\overline{6}, by long division; None if the period is long or there is none."""
    whole, rest = divmod(abs(value.numerator), value.denominator)
    seen, digits = {}, ""
    while rest and rest not in seen and len(digits) < 60:
        seen[rest] = len(digits)
        digit, rest = divmod(rest * 10, value.denominator)
        digits += str(digit)
    if rest not in seen:
        return None
    return f"{'-' * (value < 0)}{whole}.{digits[:seen[rest]]}\\overline{{{digits[seen[rest]:]}}}"


def renderings(value: Fraction, k: int) -> dict[str, str]:
    """A value in every notation that can hold it; k makes unreduced fractions."""
    top, bottom, minus = abs(value.numerator), value.denominator, "-" * (value < 0)
    out = {"slash": f"{minus}{top}/{bottom}", "frac": rf"{minus}\frac{{{top}}}{{{bottom}}}",
        "dfrac": rf"\dfrac{{{minus}{top}}}{{{bottom}}}",
        "unreduced": rf"\frac{{{minus}{k * top}}}{{{k * bottom}}}",
        "below": rf"{minus}\frac{{{-top}}}{{{-bottom}}}", "spaces": f"{minus} {top} / {bottom}",
        "parentheses": f"({minus}{top})/({bottom})", "percent": rf"{minus}\frac{{{100 * top}}}{{{bottom}}}\%"}
    if top < 10 and bottom < 10:
        out["tight"] = rf"{minus}\frac{top}{bottom}"
    if top > bottom > 1:
        out["mixed"] = rf"{minus}{top // bottom}\frac{{{top % bottom}}}{{{bottom}}}"
        out["mixed plain"] = f"{minus}{top // bottom} {top % bottom}/{bottom}"
    if text := repeating(value):
        out["repeating"] = text
    if (text := decimal_of(value)) is not None:
        whole, _, rest = text.lstrip("-").partition(".")
        rest = "." + rest if rest else ""
        grouped = f"{int(whole):,}"
        out |= {"decimal": text, "zeros": text + ("00" if rest else ".00"),
        "unicode minus": text.replace("-", "\u2212"),
            "comma": minus + grouped + rest, "latex comma": minus + grouped.replace(",", "{,}") + rest,
            "thin space": minus + grouped.replace(",", r"\,") + rest, "e": text + "e0",
            "scientific": rf"{decimal_of(value / 1000)}\times 10^{{3}}",
            "small": rf"{decimal_of(value * 100)}\cdot 10^{{-2}}",
            "power": f"{decimal_of(value * 10)}e-1", "percent decimal": decimal_of(value * 100) + "%",
            "percent word": decimal_of(value * 100) + " percent"}
    return out


WRAPS = ["{}", "${}$", r"\({}\)", r"\[{}\]", r"\boxed{{{}}}", " {} ", "{}.", "x = {}", r"$\boxed{{{}}}$",
    r"$$ {} $$"]
AFTER = ["{}", r"{}\text{{ cm}}", "{} cm", r"{}^\circ", r"{}\,\text{{m}}", "{} apples",
    r"{}\text{{ square units}}"]


@FAST
@given(RATIONALS, st.integers(2, 12), st.data())
def test_every_rendering_of_a_rational_is_that_rational(value, k, data):
    ways = renderings(value, k)
    first, second = (data.draw(st.sampled_from(sorted(ways))) for _ in range(2))
    text = data.draw(st.sampled_from(WRAPS)).format(ways[first])
    assert same_answer(text, ways[second]), (text, ways[second])
    assert same_answer(text, str(value))


@FAST
@given(RATIONALS, st.integers(2, 12), st.data())
def test_a_unit_may_follow_every_rendering(value, k, data):
    ways = {n: t for n, t in renderings(value, k).items() if "percent" not in n and "comma" not in n}
    text = data.draw(st.sampled_from(AFTER)).format(data.draw(st.sampled_from(sorted(ways.values()))))
    assert same_answer(text, str(value)), text


@FAST
@given(st.integers(1000, 10**9), st.sampled_from([r"\${}", "{} cm", r"{}\text{{ apples}}", r"{}^\circ",
    r"\boxed{{\${}}}"]))
def test_a_number_with_thousands_separators_keeps_its_unit(value, form):
    assert same_answer(form.format(f"{value:,}"), str(value)), form.format(f"{value:,}")
    assert not same_answer(form.format(f"{value:,}"), str(value + 1))


@FAST
@given(RATIONALS, RATIONALS, st.integers(2, 12), st.data())
def test_no_rendering_of_a_rational_is_another_rational(value, other, k, data):
    near = [-value, value + 1, value * 100, value / 100, value * 10, value / 10,
        value + Fraction(1, 10**6), Fraction(value.denominator, value.numerator or 1),
        Fraction(abs(value.numerator) % 10, value.denominator)]
    other = data.draw(st.sampled_from([other, *near]))
    assume(other != value)
    mine, theirs = renderings(value, k), renderings(other, k)
    first, second = data.draw(st.sampled_from(sorted(mine))), data.draw(st.sampled_from(sorted(theirs)))
    if "percent" in first + second and not ("percent" in first and "percent" in second):
        assume(other != 100 * value if "percent" in first else value != 100 * other)  # 60% is 60
    text = data.draw(st.sampled_from(WRAPS)).format(mine[first])
    assert not same_answer(text, theirs[second]), text


@FAST
@given(st.lists(RATIONALS, min_size=2, max_size=6), st.data())
def test_tuples_keep_the_order_and_sets_do_not(values, data):
    turned = data.draw(st.permutations(values))
    tuple_of, set_of = (lambda vs, a=a, b=b: a + ", ".join(map(str, vs)) + b for a, b in (("(", ")"),
        (r"\{", r"\}")))
    assert same_answer(tuple_of(values), tuple_of(turned)) == (values == turned)
    assert same_answer(set_of(values), set_of(turned)) and not same_answer(tuple_of(values), set_of(turned))
    assert not same_answer(set_of([*values, max(values) + 1]), set_of(values))


# -------------------------------------------------------------------------------------- random: expressions

TREES = st.recursive(st.tuples(st.just("n"), st.integers(0, 30)), lambda t: st.one_of(
    st.tuples(st.sampled_from("+-*/"), t, t), st.tuples(st.just("neg"), t),
    st.tuples(st.just("^"), t, st.integers(0, 3))), max_leaves=8)


def value_of(tree) -> Fraction:
    if tree[0] == "n":
        return Fraction(tree[1])
    if tree[0] == "neg":
        return -value_of(tree[1])
    if tree[0] == "^":
        return value_of(tree[1]) ** tree[2]
    a, b = map(value_of, tree[1:])
    return a + b if tree[0] == "+" else a - b if tree[0] == "-" else a * b if tree[0] == "*" else a / b


def written(tree, latex: bool, times: str) -> str:
    """The tree as text; everything but a number stands in brackets."""
    if tree[0] == "n":
        return str(tree[1])
    left, right = ("{", "}") if latex else ("(", ")")
    inner = [written(t, latex, times) for t in tree[1:] if isinstance(t, tuple)]
    bracketed = [t if t.isdigit() else rf"\left({t}\right)" if latex else f"({t})" for t in inner]
    if tree[0] == "neg":
        return "-" + bracketed[0]
    if tree[0] == "^":
        return f"{bracketed[0]}^{left}{tree[2]}{right}"
    if tree[0] == "/":
        return rf"\frac{{{inner[0]}}}{{{inner[1]}}}" if latex else f"{bracketed[0]}/{bracketed[1]}"
    return f"{bracketed[0]} {times if tree[0] == '*' else tree[0]} {bracketed[1]}"


@FAST
@given(TREES, st.sampled_from([(True, r"\cdot"), (True, r"\times"), (False, "*")]), st.integers(1, 10**6))
def test_a_random_expression_has_its_value_and_no_other(tree, notation, step):
    try:
        value = value_of(tree)
    except ZeroDivisionError:
        assert not same_answer(written(tree, *notation), "1")
        return
    text = written(tree, *notation)
    assume(len(text) < 300 and len(str(value)) < 60 and "0^{0}" not in text and "0^(0)" not in text)
    if value_has_zero_to_zero(tree):
        return
    assert same_answer(text, str(value)), (text, value)
    assert same_answer(str(value), text)
    for other in (value + Fraction(1, step), value - 1, value * Fraction(step + 1, step)):
        assert other == value or not same_answer(text, str(other)), (text, other)


def value_has_zero_to_zero(tree) -> bool:
    if tree[0] == "^" and tree[2] == 0 and value_of(tree[1]) == 0:
        return True
    return any(value_has_zero_to_zero(t) for t in tree[1:] if isinstance(t, tuple))


def times(p: dict, q: dict) -> dict:
    """The product of two polynomials: {(power of x, power of y): coefficient}."""
    out = {}
    for (a, b), m in p.items():
        for (c, d), n in q.items():
            out[a + c, b + d] = out.get((a + c, b + d), 0) + m * n
    return out


def polynomial(p: dict, latex: bool = True) -> str:
    def power(name, n):
        return "" if n == 0 else name if n == 1 else f"{name}^{{{n}}}" if latex else f"{name}^{n}"

    def term(key, c):
        letters = power("x", key[0]) + power("y", key[1])
        return letters if c == 1 and letters else f"-{letters}" if c == -1 and letters else f"{c}{letters}"

    return "+".join(term(k, c) for k, c in sorted(p.items(), reverse=True) if c).replace("+-", "-") or "0"


LINEAR = st.tuples(*[st.integers(-9, 9)] * 3).filter(any).map(lambda t: {(1, 0): t[0], (0, 1): t[1],
    (0, 0): t[2]})


@FAST
@given(st.lists(LINEAR, min_size=1, max_size=4), st.booleans(), st.integers(1, 5))
def test_an_expanded_polynomial_is_its_factors(factors, latex, c):
    expanded, factored = reduce(times, factors), "".join(f"({polynomial(f, latex)})" for f in factors)
    assert same_answer(polynomial(expanded, latex), factored), factored
    assert same_answer(factored, polynomial(expanded))
    for key in ((0, 0), (1, 0), (2, 1)):
        assert not same_answer(factored, polynomial({**expanded, key: expanded.get(key, 0) + c}))


@FAST
@given(*[st.integers(-9, 9).filter(bool)] * 4)
def test_rational_expressions_are_compared_as_such(a, b, c, d):
    assume(b != d)
    left = rf"\frac{{{a}}}{{x+{b}}}+\frac{{{c}}}{{x+{d}}}".replace("+-", "-")
    top = {(1, 0): a + c, (0, 0): a * d + b * c}
    bottom = times({(1, 0): 1, (0, 0): b}, {(1, 0): 1, (0, 0): d})
    assert same_answer(left, rf"\frac{{{polynomial(top)}}}{{{polynomial(bottom)}}}")
    top[0, 0] += 1
    assert not same_answer(left, rf"\frac{{{polynomial(top)}}}{{{polynomial(bottom)}}}")


@FAST
@given(st.integers(1, 60), st.integers(2, 60), st.integers(1, 60), st.integers(2, 60))
def test_square_factors_leave_a_root_with_the_right_sign(a, b, c, d):
    assert same_answer(rf"\sqrt{{{a * a * b}}}", rf"{a}\sqrt{{{b}}}")
    assert not same_answer(rf"\sqrt{{{a * a * b}}}", rf"-{a}\sqrt{{{b}}}")
    assert same_answer(rf"\sqrt{{{b}}}\cdot\sqrt{{{d}}}", rf"\sqrt{{{b * d}}}")
    assert same_answer(rf"\sqrt{{\frac{{{a}}}{{{c}}}}}", rf"\frac{{\sqrt{{{a * c}}}}}{{{c}}}")
    assert not same_answer(rf"\sqrt{{{b}}}+\sqrt{{{d}}}", rf"\sqrt{{{b + d}}}")
    if b != d:
        conjugate = rf"\frac{{\sqrt{{{b}}}-\sqrt{{{d}}}}}{{{b - d}}}"
        assert same_answer(rf"\frac{{1}}{{\sqrt{{{b}}}+\sqrt{{{d}}}}}", conjugate)
        assert not same_answer(rf"\frac{{1}}{{\sqrt{{{b}}}-\sqrt{{{d}}}}}", conjugate)


def test_a_nested_root_is_never_its_own_negative():
    wrong = [(a, b) for a in range(2, 24) for b in range(a + 1, 24)
        if same_answer(rf"-\sqrt{{{a + b}+2\sqrt{{{a * b}}}}}", rf"\sqrt{{{a}}}+\sqrt{{{b}}}")]
    assert wrong == []


@pytest.mark.parametrize("text,gold", [(r"\sqrt{14-6\sqrt{5}}", r"\sqrt{5}-3"),
    (r"\sqrt{(\sqrt2-2)^2}", r"\sqrt2-2"), (r"\sqrt{(2-3\sqrt{2})^2}", r"2-3\sqrt2"),
    (r"\sqrt{11-6\sqrt2}", r"\sqrt2-3"), (r"\sqrt{27-10\sqrt2}", r"\sqrt2-5"),
    (r"\sqrt{28-10\sqrt3}", r"\sqrt3-5"), (r"\sqrt{30-10\sqrt5}", r"\sqrt5-5"),
    (r"\sqrt{67-16\sqrt3}", r"\sqrt3-8")])
def test_a_root_is_not_the_negative_number_with_that_square(text, gold):
    assert not same_answer(text, gold)


def test_the_root_of_a_square_is_not_what_was_squared():
    lines = [f"{k}x-{n}" for k in range(2, 60) for n in (1, 7)]
    assert [line for line in lines if same_answer(rf"\sqrt{{({line})^2}}", line)] == []
    assert [line for line in lines if same_answer(rf"\sqrt{{({line})^2}}", f"-({line})")] == []


def test_the_root_of_a_product_of_variables_has_one_sign():
    names = "abcdfghkmnpqrstuvwxyz"
    assert [(a, b) for a, b in zip(names, names[1:], strict=False) for n in range(3)
        if same_answer(rf"-\sqrt{{{a}+{n}}}\sqrt{{{b}}}", rf"\sqrt{{({a}+{n}){b}}}")] == []


# ---------------------------------------------------------------------------------- random text never raises

PIECES = [*"0123456789.,+-*/^_=<>!|'%$~&#?;: xyeiABO(){}[]\\\n\t", r"\frac", r"\sqrt", r"\sqrt[3]", r"\pi",
    r"\text{", r"\boxed{", r"\left(", r"\right)", r"\{", r"\}", r"\cup", r"\pm", r"\infty", r"\le", r"\in",
    r"^\circ", r"\%", r"\$", r"\,", r"\overline{", r"\approx", "...", "1/2", "or", "not", "10^", r"\sin",
    r"\log_", "\u2212", "\u00bd", "\u0663", "\u00b2", "\u221a", "\ud800", "\x00", "\u200b", "1e9", "cm",
    "percent", "x=", "1,000", r"\(", r"\)", r"\[", r"\]"]


@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=24).map("".join)),
    st.one_of(st.sampled_from(["42", r"\approx 3.14", "A", "x=5", "yes", r"\sqrt2", "1,2", "(1,2)",
        "0.66..."]),
        st.lists(st.sampled_from(PIECES), max_size=8).map("".join)))
def test_no_text_raises(little_memory, text, gold):
    assert same_answer(text, gold) in (True, False) and same_answer(gold, text) in (True, False)
    assert same_answer(text, text)
    assert math_reward([wrap(text), text], [gold, gold])[1] == 0.0


@FAST
@given(st.text(alphabet="<>/thinkanswer x42", max_size=80))
def test_no_completion_raises(text):
    assert math_reward([text], ["42"], boxed=True) == [0.0]
    assert (math_reward([text], ["42"]) == [1.0]) <= (extract_answer(text) is not None)


# --------------------------------------------------------------- things whose truth is known: fuzz_answers.py


def test_random_things_are_themselves_in_every_spelling_and_nothing_else():
    for function, count in (("other_spellings", 400), ("mutants", 400), ("random_pairs", 2000),
            ("guesses", 200)):
        assert getattr(fuzz_answers, function)(random.Random(1), count) == []


def test_the_fuzz_would_see_a_false_positive(monkeypatch):
    monkeypatch.setattr(fuzz_answers, "same_answer", lambda given, gold: True)
    for function in (fuzz_answers.mutants, fuzz_answers.guesses):
        assert len(function(random.Random(1), 50)) == 50


# ---------------------------------------------------------------- how an expected answer is read


@pytest.mark.parametrize("gold,kind", [("18", "value"), ("1,234", "value"), ("3/4", "value"),
    ("Yes", "words"), ("18 ducks", "value"), ("(A)", "value"), ("C", "value"), (r"\text{Evelyn}", "words"),
    ("", "nothing"), ("(red, blue)", "words"), ("Caf\u00e9", "words"), ("\u662f", "words"),
    (r"\frac{1}{", "nothing"), (r"x \equiv 3 \pmod 7", "nothing"), (r"1,2,\ldots", "nothing"),
    ("x^2+y^2=13", "value"), ("60%", "value"),
    (r"\approx 3.14", "value"), ("0.66...", "value"), ("7 hundred", "words"), ("1/0", "nothing"),
    ("9" * 7000, "nothing"), (r"\begin{pmatrix}1\\2\end{pmatrix}", "value"), ("No, because", "words"),
    ("4,2,", "nothing"), ("all reals", "value"), ("3 h 20 min", "value"), ("{}", "nothing")])
def test_an_expected_answer_is_read_as_a_value_as_words_or_as_nothing(gold, kind):
    assert reading(gold) == kind
    assert same_answer(gold, gold) == (len(gold) < 6000)


def test_simple_expected_answers_are_read_fast():
    golds = [form.format(n) for n in range(5000) for form in ("{}", "{:,}", "{}/7", "Yes{}")]
    start = time.perf_counter()
    assert all(reading(gold) == ("words" if "Yes" in gold else "value") for gold in golds)
    assert time.perf_counter() - start < 5  # 0.1 s, on a machine that does nothing else


# ---------------------------------------------------------------------------------- the oracle: math-verify

GRID_VALUES = [Fraction(n, d) for n, d in [(0, 1), (1, 1), (7, 1), (-3, 1), (42, 1), (1000, 1), (-12345, 1),
    (1234567, 1), (1, 2), (-1, 2), (3, 4), (5, 2), (-7, 4), (1, 3), (-2, 3), (22, 7), (1, 8), (1001, 4),
    (5, 6), (99, 100)]]
GRID_PAIRS = [  # (given, gold): honest answers, right and wrong, beyond single numbers
    (r"\sqrt{8}", r"2\sqrt{2}"), (r"\sqrt{8}", r"3\sqrt{2}"), (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
    (r"\frac{1}{1+\sqrt{2}}", r"\sqrt{2}-1"), (r"\sqrt{12}+\sqrt{3}", r"3\sqrt{3}"),
    (r"\sqrt{2}\sqrt{3}", r"\sqrt{6}"), (r"\sqrt{2}+\sqrt{3}", r"\sqrt{5}"),
    (r"(1+\sqrt{5})/2", r"\frac{1+\sqrt{5}}{2}"), (r"\sqrt[3]{8}", "2"), (r"\sqrt[3]{16}", r"2\sqrt[3]{2}"),
    (r"\sqrt{\frac{3}{4}}", r"\frac{\sqrt{3}}{2}"), (r"-\sqrt{2}", r"\sqrt{2}"), (r"2\pi", r"\pi \cdot 2"),
    (r"\frac{\pi}{2}", r"\frac{1}{2}\pi"), (r"\pi", "3.14"), (r"\frac{3\pi}{4}", r"0.75\pi"),
    (r"\pi^2", r"\pi\cdot\pi"), (r"4\pi", r"3\pi"), (r"\sqrt{\pi}", r"\pi^{1/2}"), (r"e^2", r"e\cdot e"),
    ("2^{10}", "1024"), ("2^{-1}", "0.5"), ("3^4", "81"), (r"\left(\frac{2}{3}\right)^2", r"\frac{4}{9}"),
    ("10^{6}", "1000000"), ("5!", "120"), ("x^2-1", "(x-1)(x+1)"), ("(x+1)^2", "x^2+2x+1"),
    ("(x+1)^2", "x^2+1"), ("x(x+1)", "x^2+x"), (r"\frac{x^2-1}{x-1}", "x+1"),
    (r"\frac{1}{x}+\frac{1}{y}", r"\frac{x+y}{xy}"), ("2x+3", "3+2x"), ("2(x+y)", "2x+2y"),
    ("a^2-b^2", "(a-b)(a+b)"), ("x^3", "x^2"), ("a-b", "b-a"), ("-(b-a)", "a-b"), ("x/2", "0.5x"),
    (r"\frac{2x+4}{2}", "x+2"), ("(a+b)^3", "a^3+3a^2b+3ab^2+b^3"), ("3x^2y", "3yx^2"),
    ("n(n+1)/2", r"\frac{n^2+n}{2}"), (r"x^{-1}", r"\frac{1}{x}"), ("y=2x+1", "y=1+2x"), ("y=2x+1", "2x+1"),
    ("x=5", "5"), ("5", "x=5"), ("x=6", "5"), ("x = 5", "x=5"), ("y=5", "x=5"), ("x<5", "x<5"),
    ("5>x", "x<5"), ("x>5", "x<5"), (r"x\le 5", r"x \leq 5"), (r"x\le 5", "x<5"), (r"x\ge 3", r"3\le x"),
    (r"x \in [1,2]", "[1,2]"), ("(1,2)", "(1,2)"), ("(1,2)", "(2,1)"), (r"\left(\frac{1}{2},3\right)",
    "(0.5,3)"), ("(1,2,3)", "(1,2,3)"), ("(1,2,3)", "(1,3,2)"), ("[1,2)", "[1,2)"), ("[1,2)", "(1,2)"),
        ("[1,2]", "[1,2]"), ("[0,0.5]", r"[0,\frac{1}{2}]"), (r"(-\infty,3)", r"(-\infty,3)"),
        (r"(-\infty,3]", r"(-\infty,3)"), (r"(-\infty,0)\cup(0,\infty)", r"(-\infty,0)\cup(0,\infty)"),
        (r"[0,1]\cup[2,3]", r"[2,3]\cup[0,1]"), (r"(0,1)\cup(2,3)", r"(0,1)\cup(2,4)"),
        (r"\{1,2\}", r"\{2,1\}"),
    (r"\{1,2\}", r"\{1,3\}"), (r"\{1,2,3\}", r"\{3,2,1\}"), (r"\{1,2\}", r"\{1,2,3\}"), ("1,2", "2,1"),
    ("1, 2", r"\{1,2\}"), (r"\left\{\frac{1}{2},1\right\}", r"\{1,0.5\}"),
    (r"\{\sqrt{8}\}", r"\{2\sqrt{2}\}"), (r"\pm 2", "-2, 2"), (r"1\pm\sqrt{2}", r"1+\sqrt{2}, 1-\sqrt{2}"),
    (r"x=\pm 2", r"x=\pm 2"), (r"\{-1,1\}", r"\pm 1"), (r"\text{A}", "A"), (r"\text{(B)}", r"\text{B}"),
    (r"\text{A}", r"\text{B}"), (r"\text{even}", r"\text{even}"), (r"\text{even}", r"\text{odd}"),
    (r"\text{Yes}", r"\text{yes}"), (r"5\text{ cm}", "5"), (r"5\text{ cm}^2", "5"),
    (r"5\text{ cm}", r"5\text{ cm}"), (r"6\text{ cm}", r"5\text{ cm}"), (r"45^\circ", "45"),
    (r"45^{\circ}", r"45^\circ"), (r"\$5", "5"), (r"\$5.50", "5.5"), (r"\$1,000", "1000"),
    (r"1,000\text{ cm}", "1000"), (r"12\text{ apples}", "12"), (r"5\sqrt{2}\text{ cm}", r"5\sqrt{2}"),
    (r"25\pi\text{ cm}^2", r"25\pi"), (r"50\%", "50"), ("50", r"50\%"), (r"1.5\times 10^3", "1500"),
    (r"1.5\cdot 10^{-3}", "0.0015"), (r"2\times10^{5}", "200000"), (r"0.\overline{3}", "1/3"),
    (r"0.1\overline{6}", r"\frac{1}{6}"), ("i^2", "-1"), ("(1+i)^2", "2i"), ("3+4i", "4i+3"),
    ("3+4i", "3-4i"), (r"\sqrt{-4}", "2i"), ("|-5|", "5"), (r"\sin(2x)", r"\sin(x+x)"), (r"\log_2 8", "3"),
    (r"\sin\frac{\pi}{6}", "0.5"), ("-y+x", "x-y"), ("yx", "xy"), (r"\infty", r"\infty"),
    (r"-\infty", r"\infty"), (r"\sqrt{3+2\sqrt{2}}", r"1+\sqrt{2}"), (r"\sqrt{2+\sqrt{3}}",
    r"\frac{\sqrt{6}+\sqrt{2}}{2}"), (r"\sqrt[3]{2}\sqrt[3]{4}", "2"), (r"\sqrt[4]{4}", r"\sqrt{2}"),
]


def grid() -> dict[tuple[str, str], str]:
    """(given, gold) -> its notation: every value in every notation against its plain form, and wrong ones."""
    cases = {}
    for value in GRID_VALUES:
        n, d = value.numerator, value.denominator
        gold = str(n) if d == 1 else rf"\frac{{{n}}}{{{d}}}"
        for notation, text in renderings(value, 3).items():
            if "\u2212" not in text and "percent" not in text:
                cases.setdefault((text, gold), notation)
        wrong = [str(value + 1), decimal_of(10 * value) or str(-value), rf"\frac{{{n}}}{{{d + 1}}}",
            rf"\frac{{{d}}}{{{n}}}"]
        cases |= {(text, gold): "another value" for text in wrong if value and value**2 != 1}
    return cases | dict.fromkeys(GRID_PAIRS, "pair")


# whole notations that math-verify reads otherwise, and single cases: with one reason each
NOTATIONS = {
    "e": "math-verify takes the e of 1.5e3 for Euler's number",
    "power": "math-verify takes the e of 1.5e3 for Euler's number",
    "percent": r"math-verify reads no number in \frac{100}{2}\%",
    "mixed plain": "math-verify reads 2 1/2 as 3/2, and -1 3/4 as -1",
    "repeating": r"math-verify reads 0.\overline{3} as 0",
    "thin space": r"math-verify reads 1\,000 as the product of 1 and 000",
}
DISAGREEMENTS = {
    (r"0.25025\times 10^{3}", r"\frac{1001}{4}"): "math-verify multiplies decimals as floats",
    (r"0.\overline{3}", "1/3"): r"math-verify reads 0.\overline{3} as 0",
    (r"0.1\overline{6}", r"\frac{1}{6}"): r"math-verify reads 0.\overline{3} as 0",
    ("i^2", "-1"): "math-verify takes i for a variable",
    ("(1+i)^2", "2i"): "math-verify takes i for a variable",
    (r"\sqrt{-4}", "2i"): "math-verify takes i for a variable",
    (r"\sqrt{2+\sqrt{3}}", r"\frac{\sqrt{6}+\sqrt{2}}{2}"): "we do not take roots out of roots",
    (r"\sqrt{3+2\sqrt{2}}", r"1+\sqrt{2}"): "we do not take roots out of roots",
    (r"\sqrt[3]{2}\sqrt[3]{4}", "2"): "we multiply square roots only",
    (r"\sqrt[4]{4}", r"\sqrt{2}"): "we do not change the degree of a root",
}


def oracle(text: str, gold: str) -> bool:
    return bool(math_verify.verify(*(math_verify.parse(rf"\boxed{{{t}}}" if "$" in t else f"${t}$")
        for t in (gold, text))))


@pytest.mark.skipif(math_verify is None, reason="the oracle for answers: requirements-oracles.txt")
def test_math_verify_agrees_but_for_the_listed_cases():
    cases = grid()
    assert len(cases) >= 300 and set(DISAGREEMENTS) <= set(cases)
    differ = {case: ours for case in cases if (ours := same_answer(*case)) != oracle(*case)}
    unlisted = {case: ours for case, ours in differ.items()
        if case not in DISAGREEMENTS and cases[case] not in NOTATIONS}
    assert not unlisted, f"(given, gold): our verdict; math-verify's is the opposite: {unlisted}"
    assert set(DISAGREEMENTS) <= set(differ), f"agree by now: {set(DISAGREEMENTS) - set(differ)}"
    assert set(NOTATIONS) <= {cases[case] for case in differ}


# --------------------------------------------------------------------------------------------- hostile texts

UNITS = ["(", ")", "{", "}", "[", "$", "$$", "\\", r"\(", r"\[", r"\text{", r"\text{a}", r"\boxed{", r"\frac",
    r"\frac{1}{", r"\sqrt{", r"\sqrt", r"\left(", r"\{", r"\cup", r"\pm", r"\quad", "1", "1,", "1,000,", ",",
    "=", "x=", "<", "!", "5!", "%", "1%", "'", "^", "2^", "9**", "x^{", "x_", "-", "+-", "1+", "|", " ", "\n",
    "\t ", "~", "a", "a ", "a1", "1 ", "1a ", "e", "1e", ".", "...", "0.", r"\,", r"{,}", r"\overline{1}",
    "_", "\u00b2", "\u221a", "\u2212", "\u0663", "\ud800", "\x00", "cm ", "or ", "cm^2/", r"\sin", r"\log_{",
    r"^\circ", r"\infty,", r"\$", "(1,", "```", "<think>", "</think>", "<answer>", "</answer>",
    "<think></think>", "<answer></answer>", "a\u4e00", "\u4e00", "the "]


def hostile() -> dict[str, str]:
    """Long and deep texts by name."""
    def nest(opening, closing, inside, length):
        times = (length - len(inside)) // (len(opening) + len(closing))
        return opening * times + inside + closing * times

    primes = [p for p in range(1009, 1500) if all(p % q for q in range(2, 40))]
    out = {f"{unit!r} x {size}": (unit * (size // len(unit) + 1))[:size]
        for unit in UNITS for size in (390, 5990, 10**6)}
    out |= {f"4 {unit!r} 2": "4" + unit * (5900 // len(unit)) + "2" for unit in UNITS}
    for opening, closing in [("(", ")"), ("{", "}"), (r"\frac{1}{1+", "}"), (r"\sqrt{1+", "}"),
        (r"\sqrt{1000!+", "}"),
            (r"\sqrt{1/999!+", "}"), (r"\sqrt{1/7^{999}+x+", "}"), ("(x+1/999!+", ")^{1/2}"), ("x^{", "}"),
            ("(", ")^{1000}"), (r"\text{", "}"), (r"\boxed{", "}"), ("$", "$"), (r"\(", r"\)"), ("(1,", ")"),
            (r"\{", r"\}"), (r"\sin(", ")"), ("|", "|"), ("-(", ")"),
            (r"\left(", r"\right)"), ("(1/", ")")]:
        out |= {f"nested {opening} in {size}": nest(opening, closing,
        "x", size) for size in (120, 390, 5990, 10**6)}
    out |= {"tower": "9**9**9", "carets": "9^9^9^9", "big tower": "9^{9^{9}}",
        "factorials": "1000!" + "!" * 300, "factorial": "99999999!",
        "product of factorials": "*".join(["1000!"] * 60), "power": "2^{999999999}",
        "powers": "(((2^{1000})^{1000})^{1000})^{1000}", "e": "1e999999999", "e4": "1e9999", "-e4": "1e-9999",
        "4300 digits": "7" * 4300, "4301 digits": "7" * 4301, "5000 digits": "7" * 5000 + "/3",
        "0.": "0." + "3" * 5900, "million digits": "7" * 10**6,
        "100,000 parentheses": "(" * 10**5 + "1" + ")" * 10**5,
        "roots of primes": "+".join(rf"\sqrt{{{p}}}" for p in primes)[:390].rpartition("+")[0],
        "product of roots": "".join(rf"\sqrt{{{p}}}" for p in primes)[:396].rpartition(r"\sqrt")[0],
        "roots of large numbers": "+".join(rf"\sqrt{{7^{{{k}}}+1}}" for k in range(900, 925)),
        "large roots": "+".join(rf"\sqrt[99]{{{k}^9+1}}" for k in range(900, 918)),
        "harmonic": "+".join(f"1/{n}!" for n in range(999, 945, -1)),
        "64 expressions": r"\{" + ",".join(f"x+{k}" for k in range(64)) + r"\}",
        "65 numbers": ",".join(map(str, range(65))),
        "16 roots": ",".join(rf"\sqrt{{a+{k}}}" for k in range(16)),
        "16 sums": ",".join(rf"\sqrt{{{k}}}+\sqrt{{x}}" for k in range(16)),
        "approx": r"\approx " + "1" * 5900, "approx x": r"\approx " + "1" * 5900 + "x",
        "cut": "0." + "6" * 5000 + "...", "units": "1 " + "m" * 380, "unit words": "1 " + "meters " * 50,
        "surrogates": "\udfff" * 5000, "names": "abcdefgh=" + "1" * 390,
        "commas and digits": ("123," * 1500)[:-1] + "x", "mixed": "1 1/2 " * 900}
    return out


HOSTILE = hostile()


@pytest.fixture
def little_memory():
    """An answer that wants a gigabyte gets a MemoryError, not the machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (1 << 30), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize("gold", ["42", r"\sqrt{2}+x", "A", "1,2", r"\approx 3.14"])
def test_a_hostile_answer_is_wrong_and_does_not_hang(gold, little_memory):
    accepted = []
    for name, text in HOSTILE.items():
        start = time.perf_counter()
        accepted += [name] if same_answer(text, gold) else []
        assert time.perf_counter() - start < 10, name
    assert accepted == []


def test_a_hostile_expected_answer_does_not_raise(little_memory):
    for name, text in HOSTILE.items():
        try:
            same_answer("42", text)
            same_answer(text + " ", text)
        except Exception as error:
            pytest.fail(f"{name}: {error!r:.200}")


def test_hostile_completions_neither_raise_nor_hang(little_memory):
    for name, text in HOSTILE.items():
        for completion in (text, wrap(text), wrap("42", text), wrap("42") + text, f"<think></think>{text}"):
            start = time.perf_counter()
            assert math_reward([completion], ["42"])[0] in (0.0, 1.0), name
            assert math_reward([completion], ["42"], boxed=True) == [0.0], name
            assert format_reward([completion])[0] in (0.0, 1.0) and format_reward([completion], boxed=True)
            assert countdown_reward([completion], [[4, 2]], [42]) == [0.0], name
            assert time.perf_counter() - start < 10, name


def test_hostile_thinking_does_not_hang_the_language_reward(little_memory):
    for name, text in HOSTILE.items():
        start = time.perf_counter()
        assert all(0 <= language_reward([wrap("42", text)], [language])[0] <= 1 for language in ("en",
        "zh")), name
        assert time.perf_counter() - start < 10, name


@pytest.mark.parametrize("opening,closing", [("x_{", "}"), (r"\log_{", "}5"), (r"\sin^{", "}x"),
    ("f_{1+", "}'")])
def test_nested_names_need_little_memory(opening, closing):
    program = f"""
import resource
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
from verify.answers import same_answer
for n in (10, 20, 30, 40, 45, 75):
    text = {opening!r} * n + "x" + {closing!r} * n
    print(same_answer(text if len(text) < 400 else "y", "x"))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.split() == ["False"] * 6, done.stderr[-200:]
