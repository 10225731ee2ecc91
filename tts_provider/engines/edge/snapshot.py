"""The voices that Edge had in October 2026, for a start without the network: 322 voices in 142 locales.

One line a locale (more where one is too long): its female voices, a stroke, its male voices. Within a gender the most
ordinary adult voice comes first, for that is the order in which a speaker number takes them; children's and multilingual
voices come last.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tts_provider.engines.base import Gender

__all__ = ["SUBSTITUTES", "snapshot"]

_TABLE: Final = """
af-ZA Adri | Willem
am-ET Mekdes | Ameha
ar-AE Fatima | Hamdan
ar-BH Laila | Ali
ar-DZ Amina | Ismael
ar-EG Salma | Shakir
ar-IQ Rana | Bassel
ar-JO Sana | Taim
ar-KW Noura | Fahed
ar-LB Layla | Rami
ar-LY Iman | Omar
ar-MA Mouna | Jamal
ar-OM Aysha | Abdullah
ar-QA Amal | Moaz
ar-SA Zariyah | Hamed
ar-SY Amany | Laith
ar-TN Reem | Hedi
ar-YE Maryam | Saleh
az-AZ Banu | Babek
bg-BG Kalina | Borislav
bn-BD Nabanita | Pradeep
bn-IN Tanishaa | Bashkar
bs-BA Vesna | Goran
ca-ES Joana | Enric
cs-CZ Vlasta | Antonin
cy-GB Nia | Aled
da-DK Christel | Jeppe
de-AT Ingrid | Jonas
de-CH Leni | Jan
de-DE Katja Amala SeraphinaMultilingual | Conrad Killian FlorianMultilingual
el-GR Athina | Nestoras
en-AU Natasha | WilliamMultilingual
en-CA Clara | Liam
en-GB Sonia Libby Maisie | Ryan Thomas
en-HK Yan | Sam
en-IE Emily | Connor
en-IN Neerja NeerjaExpressive | Prabhat
en-KE Asilia | Chilemba
en-NG Ezinne | Abeo
en-NZ Molly | Mitchell
en-PH Rosa | James
en-SG Luna | Wayne
en-TZ Imani | Elimu
en-US Jenny Aria Michelle Emma Ava EmmaMultilingual AvaMultilingual Ana |
en-US | Guy Christopher Eric Roger Steffan Andrew Brian AndrewMultilingual BrianMultilingual
en-ZA Leah | Luke
es-AR Elena | Tomas
es-BO Sofia | Marcelo
es-CL Catalina | Lorenzo
es-CO Salome | Gonzalo
es-CR Maria | Juan
es-CU Belkys | Manuel
es-DO Ramona | Emilio
es-EC Andrea | Luis
es-ES Elvira Ximena | Alvaro
es-GQ Teresa | Javier
es-GT Marta | Andres
es-HN Karla | Carlos
es-MX Dalia | Jorge
es-NI Yolanda | Federico
es-PA Margarita | Roberto
es-PE Camila | Alex
es-PR Karina | Victor
es-PY Tania | Mario
es-SV Lorena | Rodrigo
es-US Paloma | Alonso
es-UY Valentina | Mateo
es-VE Paola | Sebastian
et-EE Anu | Kert
fa-IR Dilara | Farid
fi-FI Noora | Harri
fil-PH Blessica | Angelo
fr-BE Charline | Gerard
fr-CA Sylvie | Antoine Jean Thierry
fr-CH Ariane | Fabrice
fr-FR Denise VivienneMultilingual Eloise | Henri RemyMultilingual
ga-IE Orla | Colm
gl-ES Sabela | Roi
gu-IN Dhwani | Niranjan
he-IL Hila | Avri
hi-IN Swara | Madhur
hr-HR Gabrijela | Srecko
hu-HU Noemi | Tamas
id-ID Gadis | Ardi
is-IS Gudrun | Gunnar
it-IT Elsa Isabella | Diego GiuseppeMultilingual
iu-Cans-CA Siqiniq | Taqqiq
iu-Latn-CA Siqiniq | Taqqiq
ja-JP Nanami | Keita
jv-ID Siti | Dimas
ka-GE Eka | Giorgi
kk-KZ Aigul | Daulet
km-KH Sreymom | Piseth
kn-IN Sapna | Gagan
ko-KR SunHi | InJoon HyunsuMultilingual
lo-LA Keomany | Chanthavong
lt-LT Ona | Leonas
lv-LV Everita | Nils
mk-MK Marija | Aleksandar
ml-IN Sobhana | Midhun
mn-MN Yesui | Bataa
mr-IN Aarohi | Manohar
ms-MY Yasmin | Osman
mt-MT Grace | Joseph
my-MM Nilar | Thiha
nb-NO Pernille | Finn
ne-NP Hemkala | Sagar
nl-BE Dena | Arnaud
nl-NL Fenna Colette | Maarten
pl-PL Zofia | Marek
ps-AF Latifa | GulNawaz
pt-BR Francisca ThalitaMultilingual | Antonio
pt-PT Raquel | Duarte
ro-RO Alina | Emil
ru-RU Svetlana | Dmitry
si-LK Thilini | Sameera
sk-SK Viktoria | Lukas
sl-SI Petra | Rok
so-SO Ubax | Muuse
sq-AL Anila | Ilir
sr-RS Sophie | Nicholas
su-ID Tuti | Jajang
sv-SE Sofie | Mattias
sw-KE Zuri | Rafiki
sw-TZ Rehema | Daudi
ta-IN Pallavi | Valluvar
ta-LK Saranya | Kumar
ta-MY Kani | Surya
ta-SG Venba | Anbu
te-IN Shruti | Mohan
th-TH Premwadee | Niwat
tr-TR Emel | Ahmet
uk-UA Polina | Ostap
ur-IN Gul | Salman
ur-PK Uzma | Asad
uz-UZ Madina | Sardor
vi-VN HoaiMy | NamMinh
zh-CN Xiaoxiao Xiaoyi | Yunxi Yunyang Yunjian Yunxia
zh-CN-liaoning Xiaobei |
zh-CN-shaanxi Xiaoni |
zh-HK HiuMaan HiuGaai | WanLung
zh-TW HsiaoChen HsiaoYu | YunJhe
zu-ZA Thando | Themba
"""

SUBSTITUTES: Final = {
    "en-US-DavisNeural": "en-US-ChristopherNeural",
    "en-US-TonyNeural": "en-US-GuyNeural",
    "en-US-JasonNeural": "en-US-EricNeural",
    "en-US-BrandonNeural": "en-US-RogerNeural",
    "en-US-JacobNeural": "en-US-SteffanNeural",
    "en-US-SamuelMultilingualNeural": "en-US-AndrewMultilingualNeural",
    "en-US-AmberNeural": "en-US-AriaNeural",
    "en-US-AshleyNeural": "en-US-MichelleNeural",
    "en-US-CoraNeural": "en-US-JennyNeural",
    "en-US-ElizabethNeural": "en-US-AriaNeural",
    "en-US-JaneNeural": "en-US-JennyNeural",
    "en-US-MonicaNeural": "en-US-MichelleNeural",
    "en-US-NancyNeural": "en-US-AriaNeural",
    "en-US-SaraNeural": "en-US-JennyNeural",
    "en-AU-WilliamNeural": "en-AU-WilliamMultilingualNeural",
    "hi-IN-AaravNeural": "hi-IN-MadhurNeural",
    "it-IT-GiuseppeNeural": "it-IT-GiuseppeMultilingualNeural",
    "ko-KR-HyunsuNeural": "ko-KR-HyunsuMultilingualNeural",
    "pt-BR-ThalitaNeural": "pt-BR-ThalitaMultilingualNeural",
    "zh-CN-XiaochenNeural": "zh-CN-XiaoxiaoNeural",
}
"""Voices that Edge has withdrawn or never had, though clients ask for them, and who speaks instead: same locale and gender."""


def snapshot() -> Iterator[tuple[str, str, Gender]]:
    """Locale, short name and gender of every voice, in the order of the table."""
    for line in _TABLE.split("\n"):
        if not line:
            continue
        locale, _, names = line.partition(" ")
        female, _, male = names.partition("|")
        for name in female.split():
            yield locale, f"{locale}-{name}Neural", "female"
        for name in male.split():
            yield locale, f"{locale}-{name}Neural", "male"
