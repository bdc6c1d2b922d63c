"""The words in which ingest may speak of its source: a text from a file leaves only where it is made of them, or where its owner declared it.

Somebody's name can stand in any field, so no list of forbidden texts is ever complete; these are the lists of allowed ones: a wide one
(`is_ordinary`) for headers and cells of tables, a narrow one (`is_anatomical`) for folders and contours, which are often called after people.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache

_GENERAL = """
a about above abnormal absent acute adult affected after age all alive and area any arm average bad baseline before below benign
big bilateral binary born category censored central change child chronic class clear clinical code cohort complete confirmed
control current daily date day days dead death degree deceased declined diagnosis diameter die died diffuse disease distal done
donor dose early ended error event ever evidence excluded false female few final finding findings firm first focal follow former
fresh from full future good grade group healthy height high history hour hours image in increased indeterminate index
infected inpatient intermediate intubated is label large last late left length level live lived lobe local location loss lost low
lower male malignant marker mass maximum mean median medium mild minimum minute minutes mixed moderate month months multiple
natural needed negative never new no none normal not number offset often old on one only or other out outcome outpatient over
palpable partial past patient patients percent phase placebo plus point poor positive possible post pre present previous primary
probable proven pulse quit random rare ratio reactive recent rest result right risk score second secondary sex severe severity
short side sign single site size small smoker smoking some source stable stage state status still study subject sum suspect
suspected symptom symptoms test therapy third time total transplant transplanted treated treatment trial true two type unclear
under unit unknown unlikely untreated upper use value very view visit volume was weak week weeks weight went with within without
year years yes young zero
background foreground anterior posterior kidney liver lung lungs spleen pancreas stomach oesophagus esophagus gallbladder aorta
vertebrae vertebra rib ribs hip gluteus maximus medius minimus autochthon iliopsoas femur humerus scapula clavicula trachea colon
duodenum bowel bladder prostate heart atrium ventricle myocardium cava vein veins artery portal splenic hepatic vessel vessels
brain hippocampus cerebellum tumor tumour tumors tumours lesion lesions cancer metastasis cyst oedema edema necrosis enhancing
primaries core colour color
hepatitis cirrhosis fibrosis steatosis steatohepatitis cholangitis cholestasis atresia biliary ascites encephalopathy varices
spiders hepato histology steroid antivirals fatigue malaise anorexia jaundice itching fever cough dyspnea dyspnoea pneumonia
pneumocystis pneumothorax effusion consolidation opacity infiltrate nodule cardiomegaly atelectasis emphysema hernia tuberculosis
viral virus bacterial fungal lipoid aspiration streptococcus klebsiella legionella mycoplasma nocardia staphylococcus
chlamydophila varicella influenza herpes adenovirus covid sars mers ards cov hyperplasia hypertrophy autoimmune toxic idiopathic
metabolic genetic alcoholic infectious unspecified mellitus diabetes hypertension
bilirubin bili albumin alb alk alkaline phos phosphatase phosphate sgot sgpt alt alat ast asat ggt gamma alp che chol cholesterol crea
creatinine protein prot protime prothrombin inr trig triglycerides copper platelet platelets plt hemoglobin haemoglobin hgb wbc
rbc crp ldh urea bun glucose sodium potassium calcium ferritin iron ceruloplasmin afp hbv hcv hav hbsag hbeag igg igm rna dna
load lymphocyte lymphocytes neutrophil neutrophils leukocyte leukocytes eosinophil monocyte count pcr rt temperature saturation
oxygen spo po survival icu supplemental extubated intubation went bmi bsa tace pugh meld child trt edema futime steroids
years male female man woman boy girl men women
ct mr mri pet xray dr cr dx us flair adc dwi pd pz tz ap pa lateral axial coronal sagittal supine prone erect
"""
_CHINESE = """
男 女 是 否 有 无 未 不 阳性 阴性 弱阳性 正常 异常 轻度 中度 重度 轻 中 重 急性 慢性 早期 晚期 期 级 型 左 右 肝 脾 肺 肾 肝炎 肝硬化 肝纤维化 脂肪肝
病毒性 自身免疫性 药物性 乙型 丙型 甲型 戊型 黄疸 腹水 胆道闭锁 年龄 性别 诊断 结果 未知 其他 死亡 存活 治愈 好转 总胆红素 直接胆红素 白蛋白 谷丙转氨酶
谷草转氨酶 血小板 月 岁 天 疑似 确诊 对照 健康
"""
_CONTEXTS = (2, 4, 4031, 7150, 7151, 7159, 7166, 7170, 7171, 7191, 7192, 7194, 7601)
"""PS3.16 context groups of laterality, body regions, structures, tissues and lesions. The whole of DICOM's dictionary would not
do for names of structures: it holds places, animals' breeds and companies, which are people's names too."""
_ROI_TYPES = "EXTERNAL PTV CTV GTV ITV ORGAN AVOIDANCE CONTROL BOLUS CAVITY SUPPORT"
"""RT ROI Interpreted Types (PS3.3 C.8.8.8.1) that stand for a region: what a structure set's contour is, where its name may not be told."""
_FOLDERS = "and roi mask seg segment label segmentation structure organ region tumor tumour mets whole total"
"""Words of folder names that the context groups lack."""
_CJK = re.compile(r"[\u4e00-\u9fff]+")


def is_ordinary(text: str) -> bool:
    """Whether a text is made of words of anatomy, disease, laboratory and everyday medical language, and of short numbers.

    Numbers have up to three digits, and a lone letter counts as a word (stage T1a, group B): neither is enough to name a person.
    Dates, identifiers, telephone numbers, initials and names aren't ordinary; a name that is also a word (White, Long) can't be told from it.
    """
    tokens = re.findall(r"[^\W_]+", text)
    return len(text) <= 80 and all(_is_ordinary(token) for token in tokens) and sum(token.isdecimal() for token in tokens) <= 2


@lru_cache(4096)
def is_anatomical(name: str) -> bool:
    """Whether a structure's name is made of DICOM's anatomical terms alone, run together or not, with numbers of at most two digits."""
    words = re.findall(r"[A-Za-z]+|\d+", name)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9 _.,()/-]*", name) or len(name) > 40:
        return False
    return all(len(w) <= 2 if w.isdecimal() else w.upper() in _ROI_TYPES.split() or _is_made_of_terms(w.lower()) for w in words)


def safe_names(texts: Sequence[str], stem: str, declared: Iterable[str] = ()) -> tuple[str, ...]:
    """Each text as it is where it is declared, ordinary or anatomical, else '`stem` 1', '`stem` 2' by its place: the feature stays, its name goes."""
    known = frozenset(declared)
    told = [text in known or is_ordinary(text) or is_anatomical(text) for text in texts]
    return tuple(text if tell else f"{stem} {place}" for place, (text, tell) in enumerate(zip(texts, told, strict=True), 1))


def code_meaning(scheme: str, value: str) -> str:
    """What a coded concept is called in pydicom's copy of the code systems (DCM, SCT and old SRT codes); empty for an unknown code.

    The Code Meaning that stands beside a code in a file is free text and is never asked.
    """
    if scheme in ("SRT", "SNM3", "99SDM"):
        from pydicom.sr._snomed_dict import mapping

        scheme, value = "SCT", mapping["SRT"].get(value, "")
    return _meanings(scheme).get(value, "") if scheme in ("SCT", "DCM") else ""


def _is_ordinary(token: str) -> bool:
    if token.isdecimal():
        return len(token) <= 3
    if len(token) <= 3 and any(c.isdigit() for c in token):  # 1a, T2, 0s
        return token.isascii()
    if _CJK.fullmatch(token):
        return _chinese().fullmatch(token) is not None
    parts = re.findall(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![^\W\d_A-Z])|\d+", token)  # rightLungLower, L5, COVID19
    lower = [part.lower() for part in parts] if "".join(parts) == token else [token.lower()]
    return all(_is_word(part) for part in lower) or _is_word(token.lower())


def _is_word(word: str) -> bool:
    if len(word) == 1 or (word.isdecimal() and len(word) <= 3) or re.fullmatch(r"[ivx]{1,4}", word):
        return True
    words = _words()
    return word in words or (word.endswith("s") and word[:-1] in words)


@cache
def _words() -> frozenset[str]:
    """Those above and those that pydicom's SNOMED CT and DICOM concepts write small somewhere, or consist of: no eponym is written so."""
    found = set(_GENERAL.split())
    for scheme in ("SCT", "DCM"):
        for meaning in _meanings(scheme).values():
            words = re.findall(r"[^\W\d_]+", meaning)
            found |= {w for w in words if len(w) > 2 and w.islower()}
            if len(words) == 1 and len(words[0]) > 3:
                found.add(words[0].lower())
    return frozenset(found)


@cache
def _terms() -> frozenset[str]:
    from pydicom.sr.codedict import codes

    meanings = [code.meaning for number in _CONTEXTS for code in getattr(codes, f"cid{number}").concepts.values()]
    return frozenset(word for meaning in meanings for word in re.findall(r"[a-z]{3,}", meaning.lower())) | frozenset(_FOLDERS.split())


@lru_cache(4096)
def _is_made_of_terms(word: str) -> bool:
    if word in _terms() or word.removesuffix("s") in _terms():
        return True
    # run together, as in 'livertumor': short words would let names through
    return any(word[:cut] in _terms() and _is_made_of_terms(word[cut:]) for cut in range(4, len(word) - 3))


@cache
def _chinese() -> re.Pattern[str]:
    return re.compile(f"(?:{'|'.join(sorted(_CHINESE.split(), key=len, reverse=True))})+")


@cache
def _meanings(scheme: str) -> dict[str, str]:
    from pydicom.sr.codedict import Collection  # takes a tenth of a second and is needed once

    codes = sorted(Collection(scheme).concepts.values(), key=lambda code: (-len(code.meaning), code.meaning))
    return {code.value: code.meaning for code in codes}  # the shortest of several names: Liver, not Liver structure (body structure)
