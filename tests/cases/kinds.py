r"""Answers that models write, by kind: which are equal, which are not, and what the answer of a text is.

An input stands for its kind, so each has others beside it: other letters, units, numbers, separators. Equal
pairs hold in both directions; of the groups in APART no two are in one class, whatever else is in the group.
"""

# fmt: off

EQUAL_BY_KIND: dict[str, list[tuple[str, str]]] = {
    "letters in fonts": [
        (r"3+4\mathrm{i}", "3+4i"), (r"1+2\mathrm{i}", r"2\mathrm{i}+1"),
        (r"2\mathbf{i}-3\mathbf{j}", r"-3\mathbf{j}+2\mathbf{i}"), (r"\theta\mathrm{i}", r"i\theta"),
        (r"\mathrm{e}^{\pi\mathrm{i}}", "-1"), (r"\frac{\mathrm{e}}{2}", r"\frac{e}{2}"),
    ],
    "separators of thousands": [
        ("1 250", "1250"), ("1\xa0250", "1250"), (r"1\,250", "1250"), ("1'250", "1250"),
        (r"1,\! 250", "1250"), ("x=1,250", "1250"), ("1,250.0", "1250"), (r"1,250\text{ dollars}", "1250"),
        ("1,250 dollars", "1250"), (r"1,250\text{ cm}^2", "1250"), (r"1,250^\circ", "1250"),
        (r"20\,000\,000", "20000000"), ("20.000.000", "20000000"), ("20 000 000", "20000000"),
        (r"20,000,000\text{ people}", "20000000"), (r"1,250\pi", r"1250\pi"),
        (r"1,250\sqrt2", r"1250\sqrt2"), ("2,500x", "2500x"), ("1,234, 5,678", "1234, 5678"),
        (r"\$1,250.50", "1250.5"), (r"7\,425.00", "7425"), ("1.234,56", "1234.56"),
    ],
    "decimal commas": [
        ("35,00", "35"), ("57,00", "57"), ("0{,}5", "0.5"), ("12,05", "12.05"), (r"12,50\text{ €}", "12.5"),
    ],
    "scale words": [
        ("5 million", "5000000"), ("30 million", r"30,\!000,\!000"),
        (r"1.5\text{ billion dollars}", "1500000000"), (r"3\text{ dozen}", "36"), ("2 hundred", "200"),
        ("4 thousand km", "4000"),
    ],
    "units": [
        ("45km", "45"), ("45 m", "45"), ("45cents", "45"), ("45 m/s", "45"), ("€45", "45"), ("£45", "45"),
        ("45 US-Dollar", "45"), (r"45\ m", "45"), ("45 pens", "45"), ("5 minutes", "5 min"),
        (r"12\text{ minutes}", r"12\text{ min}"), (r"5\text{ centimeters}", r"5\,\mathrm{cm}"),
        ("3 feet", "3 ft"), ("3 boxes", "3 box"), ("4 cities", "4 city"),
        (r"350\text{ square inches}", r"350\text{ in}^2"), ("60 miles per hour", "60 mph"),
        (r"4\text{ lbs}", "4 pounds"), ("3/4 gallon", r"\frac34"), (r"7\pi square units", r"7\pi"),
        (r"2\sqrt3\text{ cm}", r"2\sqrt3"),
    ],
    "bases": [
        (r"1011_{\text{two}}", "1011_2"), ("(1011)_2", "1011_2"), ("1011_{2}", "1011_2"),
        ("1011 in base two", "1011_2"), ("1011", "1011_2"), (r"234_{\text{five}}", "234_5"),
        (r"1A_{\text{sixteen}}", "1A_{16}"),
    ],
    "words": [
        ("No", "no"), (r"\text{No}", "NO"), (r"\text{yes}", "Yes"), ("East", r"\text{east}"),
        ("No solution(s)", "no solutions"), ("Alice and Bob", r"\text{Bob and Alice}"),
        (r"\text{LQ SX}", "LQSX"),
    ],
    "choices and labels": [
        (r"\textbf{(C)}\ 12", "12"), (r"\text{(B)}~\frac{1}{5}", r"\frac15"), (r"\text{(C) }7", "C"),
        ("C)", "C"), ("E: east", "E"), (r"\text{Answer: }13", "13"), ("Answer: 13", "13"),
        (r"\text{The answer is }13", "13"), (r"\text{Area}=13", "13"),
    ],
    "ordinals": [
        (r"7^{\text{th}}", "7"), (r"7^{\mathrm{th}}\text{ grade}", "7"), ("7th", "7"), (r"7\text{th}", "7"),
    ],
    "wrappers": [
        (r"\boldsymbol{13}", "13"), (r"\bm{13}", "13"), (r"\underline{13}", "13"), (r"\gray{13}", "13"),
        (r"\textbf{13}", "13"), (r"\mathsf{13}", "13"), (r"\large 13", "13"), (r"\rm 13", "13"),
        (r"\textcolor{red}{13}", "13"), (r"\color{blue}{13}", "13"), ("13\\\\", "13"), (r"13\ ", "13"),
        ("**13**", "13"), ("`13`", "13"), ("= 13", "13"), ("13 = x", "13"), (r"\therefore 13", "13"),
        (r"\phantom{-}13", "13"), ('"13"', "13"),
        (r"\begin{pmatrix}1&-1\\1&1\end{pmatrix}", r"\begin{pmatrix}1&-1\\1&\phantom -1\end{pmatrix}"),
    ],
    "computations": [
        ("6+7=13", "13"), (r"\left(\frac{2}{5}\right)^2=\frac{4}{25}", r"\frac{4}{25}"),
        (r"2\sqrt3\approx3.46", r"2\sqrt3"), (r"\frac14=0.25", r"\frac14"), ("x=-9/9=-1", "-1"),
        (r"A=\pi r^2=9\pi", r"9\pi"), ("a+b+c=3k", "3k"),
    ],
    "values": [
        ("2 2/3", r"\frac83"), ("7 1/4", "7.25"), ("-3 1/2", "-3.5"), (r"0.\overline{3}", r"\frac13"),
        (r"0.1\bar{6}", r"\frac16"), ("1.2e5", "120000"), (r"e^{i\pi/3}", r"\frac12+\frac{\sqrt3}{2}i"),
        (r"{10 \choose 3}", "120"), ("3:6:9", "1:2:3"), ("19:20", r"\frac{19}{20}"),
        (r"\mathbb{R}", r"(-\infty,\infty)"), (r"\mathbb R\setminus\{1\}", r"(-\infty,1)\cup(1,\infty)"),
        (r"\emptyset", r"\varnothing"), ("]2,3[", "(2,3)"), (r"\{1,2,2\}", r"\{1,2\}"),
        (r"x=1\\y=2", "x=1,y=2"), ("(x,y)=(1,2)", "x=1, y=2"), ("x_1=5, x_2=7", "5,7"),
    ],
    "characters": [
        ("3√7", r"3\sqrt7"), ("√13", r"\sqrt{13}"), ("2½", "2.5"), ("x²", "x^2"), ("2⁵", "32"),
        ("（1，2）", "(1,2)"),
        ("５", "5"), ("－5", "-5"), ("x∈[0,1]", "[0,1]"), ("≈3.14", "3.14"), ("ℝ", r"\R"),
        ("5\u200b", "5"), ("“yes”", "yes"), ("5、6", "5,6"), ("2θ", r"2\theta"),
    ],
    "products": [
        ("2x", "2 x"), ("3x^2y", "3yx^2"), ("x(x+1)", "x^2+x"), ("2xy", "2yx"), ("5a", "5 a"),
    ],
}

UNEQUAL_BY_KIND: dict[str, list[tuple[str, str]]] = {
    "letters in fonts": [
        (r"3+4\mathrm{i}", "7"), (r"2-3\mathrm{i}", "-1"), (r"2\mathrm{e}", "2"), (r"2\mathrm{e}^2", "2"),
        (r"5\mathrm{x}", "5"), (r"3\mathbf{a}", "3"), (r"2\mathbf{i}-3\mathbf{j}", r"2\mathbf{i}-3"),
    ],
    "letters around digits": [
        ("user0", "0"), ("none0", "0"), ("Plan0", "0"), ("step0", "0"), ("room0", "0"), ("x0", "0"),
        ("10user0", "0"), ("ab0", "0"), ("n0t", "0"), ("k0", "m0"), ("user1", "user"), ("d4", "4d"),
        ("R2D2", "D4R"), ("3km2", "6km"),
    ],
    "rows of letters": [
        ("IV", "VI"), ("IX", "XI"), ("no", "on"), ("xyz", "XYZ"), ("ABC", "abc"), ("AB", "BA"),
        ("AD,BC", "DA,CB"),
    ],
    "words that change a value": [
        ("5 million", "5"), (r"3\text{ dozen}", "3"), (r"3\text{ or more}", "3"), ("4 or fewer", "4"),
        (r"3\text{ or more}", r"3\text{ or less}"), (r"5\text{ hundredths}", "5"), ("5 tens", "5"),
        (r"2\text{ if }x>0", "2"),
    ],
    "contradictions": [
        ("5 cm", "5 km"), ("7 in", "7 ft"), ("101_2", "101_3"), ("3:30 am", "3:30 pm"), ("€5", "£5"),
        ("5 kg", r"5\%"), ("x=3", "y=3"), ("f(x)=2x", "g(x)=2x"), (r"x\in[0,1]", r"y\in[0,1]"),
        ("(B) 7", "(C) 7"), ("(C) 7", "(C) 8"),
    ],
    "ellipses": [
        ("1,2,3,...", "1,2,3"), ("0.333...", "0.333"), (r"1,3,5,\ldots", "1,3,5"),
        (r"1,3,\ldots,5", "1,3,5"), ("2…", "2"),
    ],
    "equations": [
        ("x+y=3", r"\max(2,3)"), ("xy=7", r"\lceil 6.5\rceil"), ("f(2)=3", r"\{3\}"), ("x+y=3", "3"),
        (r"\frac{14}{21}+\frac{6}{21}=\frac{20}{21}", r"\frac{7}{21}+\frac{6}{21}=\frac{13}{21}"),
        (r"7\div 1=7", "8/2-1/2=7/2"), ("6+7=14", "14"), ("2024-01-05", "2024-05-01"),
        ("1/2/2024", "2/1/2024"),
    ],
    "numbers": [
        ("1.2e5", "6e"), ("0.000067", "0.0000672"), ("2 3/4", "23/4"), ("2 1/2", "1"), ("1,2", "1.2"),
        ("0,5", "5"), ("1, 250", "1250"), ("(1,250)", "1250"), ("1250", "125"), ("3√7", "√37"),
        ("2^{10}", "210"),
    ],
}

APART: list[tuple[list[str], str]] = [
    (["5 cm", "5 km"], "5"), (["7 in", "7 ft", "7 m"], "7.0"), (["101_2", "101_3"], "101"),
    (["3:30 am", "3:30 pm"], "3:30"), (["x=3", "y=3"], "3"), (["(B) 7", "(C) 7"], "7"),
    (["(C) 7", "(C) 8"], "C"),
]
"""Answers that contradict each other, and one that says less than they do."""

BOXES = [
    (r"so \boxed{5}.", "5"), (r"\fbox{5}", "5"), (r"\boxed {5}", "5"), (r"\boxed{1} then \boxed{2}", "2"),
    (r"\boxed 5 then \boxed{7}.", "7"), (r"\boxed{7} then \boxed 5.", "5"),
    (r"the answer is $\boxed 12$.", "12"), (r"\boxed \frac{1}{2}, done", r"\frac{1}{2}"),
    (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
    (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."), (r"\boxed{\{1,2\}}", r"\{1,2\}"),
    (r"\boxed{x = \boxed{3}}", "3"), (r"\boxed{3} and then \boxed{\frac{1}{2", "3"),
    (r"$4\\cdot 9 = \\boxed{36}$ miles", "36"), (r"} \boxed{4} {", "4"), (r"\boxed{\frac{1}{2", ""),
    (r"\boxed{}", ""), (r"\fbox{}", ""), (r"\boxedx{5}", ""), ("no box", ""), ("", ""), (r"\boxed", ""),
    (r"\boxed{?}", ""), (r"The roots are $\boxed{4}$ and $\boxed{-9}$.", "4, -9"),
    (r"\(\boxed{2}\), \(\boxed{11}\), \(\boxed{13}\).", "2, 11, 13"),
    (r"\boxed{3}, \boxed{5}, and \boxed{7}", "3, 5, 7"),
    (r"\boxed{3}$, $\boxed{5} \text{ and } \boxed{7}", "3, 5, 7"), (r"\boxed{4} and $-\boxed{9}$", "4, -9"),
    (r"\boxed{5} and \boxed{5.0}", "5"), (r"\boxed{3} and not \boxed{4}", "4"),
    (r"\boxed{3} \boxed{4}", "4"), (r"so $a=-\boxed{9}$.", "-9"), (r"\[-\boxed{\frac12}\]", r"-\frac12"),
    (r"$x = \pm\boxed{3}$", r"\pm3"), (r"$=-\boxed{a+b}$", "-(a+b)"), (r"$7-\boxed{9}$", "9"),
    (r"- \boxed{9}", "9"), (r"So \boxed{5}. I gave it within \boxed{} as asked.", "5"),
    (r"\boxed{7} using the \boxed notation.", "7"),
    (r"I will use \boxed to box. \boxed{7} And \boxed is done.", "7"),
    (r"\boxed{7}, in the form \boxed{\text{answer}}.", "7"), (r"\boxed{7}, as \boxed{\ldots}", "7"),
    (r"\boxed{12}. For example, \boxed{42}.", "12"), (r"\boxed{A}", "A"),
]
"""Texts, and what extract_answer finds in them."""
