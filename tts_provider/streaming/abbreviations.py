"""Words that take a full stop without ending a sentence, by language.

Sentencex brings long lists for many languages; these are the words that its lists lack, and enough of the common ones that a
text is split sensibly without it. All are lower case and without the last full stop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["BEFORE_ORDINAL", "ORDINAL_LANGUAGES", "Abbreviations", "abbreviations_of"]


@dataclass(frozen=True, slots=True)
class Abbreviations:
    """One language's words."""

    leading: frozenset[str]
    """Something always follows: titles, "e.g.". Never the last word of a sentence."""
    numbered: frozenset[str]
    """Not the last word when a number follows: "No. 5", "Fig. 3"."""
    closing: frozenset[str]
    """The end of a list: "etc.". The last word when a capital follows."""
    other: frozenset[str]
    """Anything else: not the last word before a lower-case letter, perhaps before a capital."""
    starters: frozenset[str]
    """Words that, with a capital, begin a sentence even behind an abbreviation."""


def _words(text: str = "") -> frozenset[str]:
    return frozenset(text.split())


def _language(leading: str, numbered: str, closing: str, other: str, starters: str = "") -> Abbreviations:
    return Abbreviations(_words(leading), _words(numbered), _words(closing), _words(other), _words(starters))


ORDINAL_LANGUAGES: Final = _words("cs da de et fi hr hu is lb lv nb nn no pl sk sl sr tr")
"""Languages that write "3." for "3rd"."""

BEFORE_ORDINAL: Final = _words(
    "ab am an beim bis das dein deine dem den der des die dies diese dieser dieses ein eine einem einen einer ihr ihre im jede"
    " jeden jeder jedes mein meine oder sein seine seit und unser unsere vom von zum zur"
)
"""German words behind which "3." is an ordinal even if a capital follows, as it does when a noun follows."""

_NONE: Final = _language("", "", "", "")

_BY_LANGUAGE: Final[Mapping[str, Abbreviations]] = {
    "en": _language(
        "dr mr mrs ms mx messrs prof st mt ft rev hon gen col maj capt cmdr lt sgt cpl pvt adm gov sen rep pres supt insp"
        " e.g i.e cf viz vs al",
        "no nos fig figs eq eqs sec ch chap art vol vols ver p pp para tab ex ed approx ca jan feb mar apr jun jul"
        " aug sep sept oct nov dec",
        "etc",
        "jr sr inc ltd co corp bros llc dept univ assn ave blvd rd est min max avg deg temp tel ext misc incl excl resp orig"
        " mon tue tues wed thu thur thurs fri sat sun hr hrs sq wt u.s u.k u.n a.m p.m",
        "mr mrs ms a an and are but did do for he her here his how however i if in is it its my no now on or our she so some"
        " that the their then there these they this those we what when where which who why yes you your",
    ),
    "de": _language(
        "dr hr fr frl prof st dipl ing z.b d.h u.a u.u i.d.r v.a s.o s.u vgl bzw sog inkl zzgl bzgl ggf evtl ca geb gest gegr",
        "nr abb abs art bd kap s tab vers jh jan feb mär apr aug sep sept okt nov dez",
        "usw etc u.s.w u.v.m uvm",
        "str allg engl frz lat max min mind mio mrd tel tsd",
        "aber als am auch da danach dann das daher der deshalb die doch dort ein eine er es heute hier ich ihr im in jetzt man"
        " mein nun sie so und was wenn wer wie wir wo",
    ),
    "fr": _language(
        "m mm mme mmes mlle mlles dr pr me st ste mgr p.ex c.-à-d cf env av bd",
        "n n° no p pp art chap fig t vol ann janv févr avr juil sept oct nov déc",
        "etc",
        "apr dép éd hab max min tél",
        "ainsi alors ce cela ces cette dans elle elles en et il ils je la le les mais nous on or puis si tu un une voici vous",
    ),
    "es": _language(
        "sr sra srta sres dr dra d dña prof profa ud uds vd vds p.ej lic ing gral av avda",
        "n n° nº núm pág págs p pp art cap fig t vol aprox ene feb abr jun jul ago sept oct nov dic",
        "etc",
        "ee ee.uu c.a máx mín tel",
        "a de después el ella ellos en entonces es esta este esto la las los luego no nosotros pero se si su un una y ya yo",
    ),
    "it": _language(
        "sig sigg sig.ra sig.na dott dott.ssa dr prof prof.ssa ing avv arch geom on st s spett p.es",
        "n n° nr num pag pagg p pp art cap fig vol genn febbr apr ag sett ott nov dic",
        "ecc etc",
        "ca max min tel",
        "allora ci da dopo e ed egli essa era in il io la le lei lo loro ma noi non poi questa questo se un una",
    ),
    "pt": _language(
        "sr sra srta srs dr dra drs prof profa exmo exma d eng av p.ex",
        "n nº núm pág págs p pp art cap fig vol aprox jan fev abr jun jul ago set out nov dez",
        "etc",
        "máx mín tel ltda",
        "a as de depois e ela ele eles em então eu isso isto mas nós não o os se um uma",
    ),
    "nl": _language(
        "dhr mevr mw dr drs ir ing mr prof st bijv bv d.w.z m.b.t o.a i.v.m t.o.v m.a.w nl resp",
        "nr blz p art fig hfst jg jan feb apr aug sept okt nov dec",
        "enz etc",
        "ca max min tel excl incl",
        "daarna dan dat de deze die dit een en er het hij hoe ik in je maar men nu toen wat we wij ze zij",
    ),
    "ru": _language(
        "им г-н г-жа т.е т.к напр проф акад доц ул пр пер пл просп",
        "стр рис табл гл ст п № д кв",
        "др пр т.д т.п проч",
        "г гг в вв тыс млн млрд руб коп см мин сек км кг тел",
        "а в вот для и как мы на но о он она они оно потом с так там то у что эта это я",
    ),
    "uk": _language("ім п-н т.з напр проф акад вул пров пл", "стор рис табл гл ст п №", "ін т.д т.п", "р рр ст тис млн грн"),
    "pl": _language(
        "np tzn tj tzw prof dr hab inż mgr ul al pl św ks im m.in",
        "nr str s rys tab rozdz art ust",
        "itd itp etc",
        "ok godz r tys mln mld zł tel",
        "a ale ja on ona oni potem to w z",
    ),
    "cs": _language("např tzv dr ing mgr bc prof doc tj mj sv ul", "č str obr tab kap", "atd apod aj", "tis mil mld kč tel"),
    "sk": _language("napr tzv dr ing mgr bc prof doc tj sv ul", "č str obr tab kap", "atď apod", "tis mil mld tel"),
    "hu": _language("pl dr prof ún id ifj özv u", "sz old köt", "stb", "kb max min"),
    "ro": _language("dl dna dr prof str sf ex", "nr pag art fig", "etc", "cca max min"),
    "sv": _language(
        "t.ex bl.a d.v.s dvs s.k fr.o.m t.o.m prof dr",
        "nr s kap fig ca kl",
        "osv m.m etc",
        "max min tel",
        "de den det du där han hon hur i jag men nu och så vad vi är",
    ),
    "da": _language(
        "f.eks bl.a dvs d.v.s prof dr hr fr",
        "nr s kap fig ca kl",
        "osv m.m m.v etc",
        "max min tlf co",
        "de den der det du en et for han hun hvad hvor i jeg men nu og så vi",
    ),
    "nb": _language(
        "f.eks bl.a dvs prof dr hr fr",
        "nr s kap fig ca kl",
        "osv m.m etc",
        "max min tlf",
        "de den der det du en et for han hun hva hvor i jeg men nå og så vi",
    ),
    "fi": _language("esim mm prof tri ts ns", "s nro kuva luku n klo", "jne yms ym", "noin puh"),
    "tr": _language("dr prof doç av sn örn yrd mah cad sok", "no s sf sy", "vb vs", "yy tel maks min"),
    "el": _language("κ κα π.χ δηλ δρ καθ αγ οδ", "αρ σελ εικ κεφ", "κ.λπ κ.ά κτλ κλπ", "τηλ π.μ μ.μ"),
    "hi": _language("डॉ श्री प्रो कु श्रीमती सुश्री पं", "सं पृ", "", "रु कि.मी"),
    "mr": _language("डॉ श्री प्रा कु सौ श्रीमती", "क्र पृ", "", "रु"),
    "bn": _language("ড ডা মো মি প্রো", "নং পৃ", "", ""),
    "ar": _language("د أ م ا.د", "ص رقم", "إلخ", "ت ه"),
    "he": _language("ד פרופ גב", "עמ מס", "וכו וכד", ""),
    "fa": _language("د", "ص ش", "غیره", ""),
    "id": _language("dr drs ir prof jl h hj st", "no hlm hal", "dll dsb dst", "kec kab tel"),
    "vi": _language("ts ths gs pgs tp bs ks", "tr", "v.v", "đ"),
}

_SAME_AS: Final = {"no": "nb", "nn": "nb", "be": "uk", "ca": "es", "gl": "pt"}
"""Languages that make do with a neighbour's words."""


def abbreviations_of(language: str) -> Abbreviations:
    """The words of a primary language subtag (``de``); none for a language without a list."""
    return _BY_LANGUAGE.get(_SAME_AS.get(language, language), _NONE)
