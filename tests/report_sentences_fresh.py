"""Reports in English and Chinese with a clinician's truth, for the tests; none comes from a patient's record.

FRESH is of an author who had seen neither the rules nor the other sentences; LATER is of the same author once FRESH had been read and the
rules mended. Each was committed before it was read with the rules for the first time; docs/cohorts.md says what came of it. A report says
of each finding that it names whether the patient has it (`affirmed`), has it not (`negated`), may have it (`uncertain`), had it
(`historical`) or knows somebody who has it (`family`), and which label of recipes/labels/hepatitis.yaml it alone should give (None:
none). What is only spoken of (vaccination, screening, teaching, anatomy) is no finding: `unstated`. LIVER_TERMS are findings that
the hepatitis rules don't know, read with the same built-in cues.

A report is right when all three hold: its label is the true one; exactly the findings with the truth `affirmed` are affirmed (a
wider finding that covers one of them may be, too); and each finding named is read with its truth at least once.
"""

from __future__ import annotations

from typing import NamedTuple

NO = "no hepatitis"
VIRAL = "viral hepatitis"
AUTOIMMUNE = "autoimmune hepatitis"
ALCOHOLIC = "alcoholic hepatitis"
DRUG = "drug-induced hepatitis"
STEATO = "steatohepatitis"
OTHER = "other hepatitis"

LIVER_TERMS = {
    "cirrhosis": r"cirrhosis|肝硬化",
    "hcc": r"hepatocellular carcinoma|\bHCC\b|liver cancer|肝癌",
    "steatosis": r"hepatic steatosis|\bsteatosis\b|fatty (?:liver|infiltration)|脂肪肝",
}


class Report(NamedTuple):
    """One report: its kind, its text, what it says of each finding, and the label that it alone should give."""

    kind: str
    text: str
    truth: dict[str, str]
    label: str | None


def _affirmed(text: str, label: str | None, *findings: str) -> Report:
    return Report("positive", text, dict.fromkeys(findings, "affirmed"), label)


def _negated(text: str, label: str | None, *findings: str) -> Report:
    return Report("negated", text, dict.fromkeys(findings, "negated"), label)


def _uncertain(text: str, *findings: str) -> Report:
    return Report("uncertain", text, dict.fromkeys(findings, "uncertain"), None)


def _historical(text: str, *findings: str) -> Report:
    return Report("historical", text, dict.fromkeys(findings, "historical"), None)


def _family(text: str, *findings: str) -> Report:
    return Report("family", text, dict.fromkeys(findings, "family"), None)


def _unstated(text: str) -> Report:
    return Report("unstated", text, {}, None)


FRESH_ENGLISH = [
    _affirmed("Chronic hepatitis B, HBeAg-negative, on entecavir since 2016 with undetectable HBV DNA.", VIRAL, "hbv"),
    _affirmed(
        "IMPRESSION:\n1. Periportal edema and gallbladder wall thickening, compatible with acute hepatitis.\n2. No biliary dilatation.",
        OTHER,
        "hepatitis",
    ),
    _affirmed(
        "Liver biopsy, segment 6: interface activity with a plasma cell-rich infiltrate, diagnostic of autoimmune hepatitis, grade 3.",
        AUTOIMMUNE,
        "aih",
    ),
    _affirmed("HBsAg reactive, confirmed by neutralization; anti-HBc total reactive.", VIRAL, "hbv"),
    _affirmed("HCV RNA 1.2 million IU/mL, genotype 1b; referred for direct-acting antivirals.", VIRAL, "hcv"),
    _affirmed(
        "Discharge diagnosis: severe alcoholic hepatitis, Maddrey discriminant function 48; no evidence of infection or GI bleeding.",
        ALCOHOLIC,
        "alcoholic",
    ),
    _affirmed(
        "52-year-old woman with nonalcoholic steatohepatitis and bridging fibrosis presents for surveillance ultrasound.", STEATO, "steato"
    ),
    _affirmed("Isoniazid-induced hepatitis, improving since the drug was withdrawn.", DRUG, "toxic"),
    _affirmed("Known carrier of hepatitis C, never treated; her sister was vaccinated against hepatitis B.", VIRAL, "hcv"),
    _affirmed("Acute hepatitis A: anti-HAV IgM positive, ALT 2,340 U/L, total bilirubin 140 umol/L.", VIRAL, "hav"),
    _affirmed("No focal lesion. No ascites. Heterogeneous liver echotexture in this patient with chronic hepatitis C.", VIRAL, "hcv"),
    _affirmed("Anti-HEV IgM is positive and HEV RNA is detected, which confirms acute hepatitis E.", VIRAL, "hev"),
    _affirmed(
        "The child was admitted for fulminant hepatitis of unknown cause, not responding to steroids, and listed for transplantation.",
        OTHER,
        "hepatitis",
    ),
    _affirmed("Although the ultrasound shows no abnormality, the biopsy proves mild lobular hepatitis.", OTHER, "hepatitis"),
    _affirmed(
        "The liver is shrunken with a nodular contour, in keeping with cirrhosis; a 3.4 cm segment VIII lesion with washout "
        "meets LI-RADS 5 criteria for hepatocellular carcinoma.",
        None,
        "cirrhosis",
        "hcc",
    ),
    _negated("There is no sonographic evidence of hepatitis, cirrhosis or fatty infiltration.", NO, "hepatitis", "cirrhosis", "steatosis"),
    _negated("HBsAg, anti-HCV and anti-HAV IgM were all nonreactive.", None, "hbv", "hcv", "hav"),
    _negated("Denies jaundice, hepatitis, blood transfusion or intravenous drug use.", NO, "hepatitis"),
    _negated("Hepatitis serologies: negative.", None, "viral"),
    _negated("Liver biopsy shows bland cholestasis without features of autoimmune hepatitis.", None, "aih"),
    _negated("Viral hepatitis was ruled out by PCR.", None, "viral"),
    _negated("Hepatitis B surface antigen: Negative\nHepatitis C antibody: Negative\nHIV 1/2: Negative", None, "hbv", "hcv"),
    _negated("The clinical picture is that of Gilbert syndrome and not hepatitis.", NO, "hepatitis"),
    _negated("Patient does not have hepatitis; the ALT rise is explained by rhabdomyolysis.", NO, "hepatitis"),
    _negated("Neither hepatitis B nor hepatitis C was found on screening before chemotherapy.", None, "hbv", "hcv"),
    Report(
        "negated",
        "Explanted donor liver: no hepatitis, minimal steatosis (<5 %), no fibrosis.",
        {"hepatitis": "negated", "steatosis": "affirmed"},
        NO,
    ),
    _negated("The diagnosis of alcoholic hepatitis, made elsewhere, was not confirmed here.", None, "alcoholic"),
    _negated(
        "CT abdomen: Liver normal in size and attenuation. No CT signs of acute or chronic hepatitis. Spleen normal.", NO, "hepatitis"
    ),
    _negated("Negative for hepatitis A, B, C and E.", None, "hav"),
    _negated("No mass suspicious for HCC. Contour smooth, no evidence of cirrhosis.", None, "hcc", "cirrhosis"),
    _uncertain("Mild hepatomegaly and increased echogenicity; hepatitis cannot be excluded.", "hepatitis"),
    _uncertain(
        "Findings may represent early hepatitis or fatty infiltration; correlate with liver function tests.", "hepatitis", "steatosis"
    ),
    _uncertain("Rule out hepatitis.", "hepatitis"),
    _uncertain("Indication: r/o viral hepatitis, abnormal LFTs.", "viral"),
    _uncertain("Possible autoimmune hepatitis; ANA 1:320, IgG pending.", "aih"),
    _uncertain("Differential diagnosis includes drug-induced hepatitis, ischemic injury and sepsis.", "toxic"),
    _uncertain("Periportal halo sign, suspicious for acute hepatitis.", "hepatitis"),
    _uncertain("Anti-HCV is indeterminate; repeat in 4 weeks to evaluate for hepatitis C.", "hcv"),
    _uncertain("Clinical info: RUQ pain, jaundice, ?hepatitis.", "hepatitis"),
    _uncertain("Hepatitis E is not ruled out, serum sent to the reference laboratory.", "hev"),
    _uncertain("It is unclear whether the transaminase flare represents hepatitis B reactivation or a steroid effect.", "hbv"),
    _uncertain("Questionable steatohepatitis on MR elastography; biopsy recommended.", "steato"),
    _uncertain("The absence of ascites does not exclude hepatitis or early cirrhosis.", "hepatitis", "cirrhosis"),
    _uncertain(
        "Nodular contour raises concern for cirrhosis, and a 12 mm arterially enhancing focus is equivocal for HCC (LI-RADS 3).",
        "cirrhosis",
        "hcc",
    ),
    _historical("Past medical history: hepatitis A at age 6, appendectomy 1998, hypertension.", "hav"),
    _historical("She had jaundice from hepatitis as a child and recovered fully.", "hepatitis"),
    _historical("History of hepatitis C, treated with sofosbuvir/velpatasvir in 2018, sustained virologic response.", "hcv"),
    _historical("S/p alcoholic hepatitis in 2019, abstinent since.", "alcoholic"),
    _historical("Past Medical History:\nAsthma\nHepatitis B (resolved)\nGout", "hbv"),
    _historical("PMH\n- type 2 diabetes\n- drug-induced hepatitis from amoxicillin-clavulanate, 2011\n- cholecystectomy", "toxic"),
    _historical("Prior hepatitis E infection (IgG positive, IgM negative).", "hev"),
    _historical("Previously diagnosed with autoimmune hepatitis; off treatment and in remission for eight years.", "aih"),
    _historical("He was hospitalized for viral hepatitis in 1987 while serving abroad.", "viral"),
    _historical("Serology is consistent with resolved hepatitis B (anti-HBc positive, anti-HBs positive, HBsAg negative).", "hbv"),
    _historical("Remote history of hepatitis of unknown type, currently with normal liver enzymes and a normal ultrasound.", "hepatitis"),
    _historical("The hepatitis that complicated her first pregnancy resolved after delivery.", "hepatitis"),
    _historical("Status post resection of hepatocellular carcinoma in 2015; no recurrence.", "hcc"),
    _family("Family history: mother with hepatitis B, father with hypertension.", "hbv"),
    _family("Family History:\nMother: chronic hepatitis B\nFather: hepatocellular carcinoma\nSiblings: healthy", "hbv", "hcc"),
    _family("His brother died of fulminant hepatitis at 40.", "hepatitis"),
    _family("Maternal HBsAg positive; newborn given HBIG and vaccine within 12 hours.", "hbv"),
    _family("The infant was born to a mother with hepatitis C.", "hcv"),
    _family("Her husband is a hepatitis B carrier.", "hbv"),
    _family("Two cousins and a maternal aunt have autoimmune hepatitis.", "aih"),
    _family("FH: positive for alcoholic hepatitis in paternal grandfather.", "alcoholic"),
    _family("Sister recently diagnosed with hepatitis A after travelling to Egypt; patient is asymptomatic.", "hav"),
    _family("FAMILY HISTORY\nHepatitis C in a brother.\nNo known liver cancer.\nSOCIAL HISTORY\nNonsmoker.", "hcv"),
    _family("Both parents carry a diagnosis of nonalcoholic steatohepatitis.", "steato"),
    _family("Household contact: wife with chronic hepatitis B; the patient himself is HBsAg negative and immune.", "hbv"),
    _family(
        "Family history:\n  Mother - living, cirrhosis\n  Father - deceased, hepatitis C\nReview of systems: negative.", "cirrhosis", "hcv"
    ),
    _unstated("Completed the hepatitis B vaccine series in 2012."),
    _unstated("Anti-HBs 240 mIU/mL after vaccination; immune to hepatitis B."),
    _unstated("Needlestick exposure to a hepatitis C positive source; baseline blood drawn."),
    _unstated("Hepatic flexure of the colon is unremarkable; hepatic veins are patent."),
    _unstated("An acute hepatitis panel was ordered and is pending."),
    _unstated("Recommend hepatitis A vaccination before travel."),
    _unstated("Seen today in the viral hepatitis clinic for counselling on an elevated GGT."),
    _unstated("Hepatosplenomegaly with a simple hepatic cyst; no hydronephrosis."),
    _unstated("Monitor liver enzymes monthly because methotrexate can cause hepatitis."),
    _unstated("Patient education: how hepatitis C spreads and how to avoid infection."),
]

FRESH_CHINESE = [
    _affirmed("慢性乙型病毒性肝炎（HBeAg阳性），规律口服恩替卡韦抗病毒治疗。", VIRAL, "hbv"),
    _affirmed("超声所见：肝脏实质回声增粗，符合慢性肝炎声像图改变。胆囊、脾脏未见异常。", OTHER, "hepatitis"),
    _affirmed("出院诊断：1.急性甲型肝炎；2.2型糖尿病。", VIRAL, "hav"),
    _affirmed("乙肝表面抗原（+），乙肝e抗原（-），乙肝核心抗体（+）。", VIRAL, "hbv"),
    _affirmed("HCV-RNA 3.5×10^6 IU/mL，诊断丙型病毒性肝炎。", VIRAL, "hcv"),
    _affirmed("（肝穿刺）结合免疫组化，符合自身免疫性肝炎，G3S2。", AUTOIMMUNE, "aih"),
    _affirmed("长期大量饮酒史30年，入院诊断酒精性肝炎，无消化道出血及腹水。", ALCOHOLIC, "alcoholic"),
    _affirmed("服用何首乌后出现黄疸，诊断为药物性肝炎，已停用相关药物。", DRUG, "toxic"),
    _affirmed("肝活检示非酒精性脂肪性肝炎，NAS评分6分。", STEATO, "steato"),
    _affirmed("戊肝抗体IgM阳性，确诊急性戊型肝炎。", VIRAL, "hev"),
    _affirmed("患者系乙肝患者，否认高血压、糖尿病病史。", VIRAL, "hbv"),
    _affirmed("CT未见占位性病变，结合化验，急性肝炎诊断明确。", OTHER, "hepatitis"),
    _affirmed("患儿因重症肝炎转入ICU，目前意识不清，凝血功能未纠正。", OTHER, "hepatitis"),
    _affirmed("肝硬化失代偿期，腹水形成，门静脉未见血栓。", None, "cirrhosis"),
    _affirmed("慢性丙肝，未行抗病毒治疗。", VIRAL, "hcv"),
    _negated("否认肝炎、结核等传染病史。", NO, "hepatitis"),
    _negated("乙肝表面抗原阴性，丙肝抗体阴性。", None, "hbv", "hcv"),
    _negated("肝脏大小形态正常，未见肝炎及肝硬化征象。", NO, "hepatitis", "cirrhosis"),
    _negated("甲、乙、丙、戊型肝炎病毒标志物均为阴性。", None, "hev"),
    _negated("已排除病毒性肝炎。", None, "viral"),
    _negated("病理：肝小叶结构完整，无自身免疫性肝炎依据。", None, "aih"),
    _negated("HBsAg(-)，抗-HCV(-)，HIV(-)，梅毒(-)。", None, "hbv", "hcv"),
    _negated("不支持药物性肝炎的诊断。", None, "toxic"),
    _negated("患者并非乙肝携带者。", None, "hbv"),
    _negated("乙肝五项全阴，HCV-RNA未检出。", None, "hbv", "hcv"),
    _negated("肝功能正常，不考虑肝炎。", NO, "hepatitis"),
    _negated("未患过肝炎，无疫区接触史。", NO, "hepatitis"),
    _negated("目前没有酒精性肝炎的证据。", None, "alcoholic"),
    _negated("肝内未见明确肝癌征象，无脂肪肝。", None, "hcc", "steatosis"),
    _negated("既往史：体健，否认高血压、冠心病、肝炎病史，否认药物过敏史。", NO, "hepatitis"),
    _uncertain("肝脏体积增大，回声减低，急性肝炎不除外，请结合临床。", "hepatitis"),
    _uncertain("考虑自身免疫性肝炎可能，建议肝穿刺活检。", "aih"),
    _uncertain("病毒性肝炎待排。", "viral"),
    _uncertain("不能排除戊型肝炎，已送检抗体。", "hev"),
    _uncertain("疑似药物性肝炎，停药观察。", "toxic"),
    _uncertain("临床诊断：肝功能异常原因待查，肝炎？", "hepatitis"),
    _uncertain("倾向非酒精性脂肪性肝炎，请结合病史。", "steato"),
    _uncertain("丙肝抗体处于灰区，建议复查。", "hcv"),
    _uncertain("是否为乙肝再激活尚不明确。", "hbv"),
    _uncertain("肝弥漫性病变，性质待定：慢性肝炎？早期肝硬化？", "hepatitis", "cirrhosis"),
    _uncertain("门静脉周围水肿，或为急性肝炎所致。", "hepatitis"),
    _uncertain("鉴别诊断：1.酒精性肝炎；2.胆道梗阻；3.肝淤血。", "alcoholic"),
    _uncertain("未能完全除外慢性乙型肝炎。", "hbv"),
    _uncertain("肝S6结节，肝癌与增生结节难以鉴别。", "hcc"),
    _historical("既往有甲型肝炎病史，已治愈。", "hav"),
    _historical("幼时曾患肝炎，具体类型不详。", "hepatitis"),
    _historical("既往史：1998年患急性黄疸型肝炎，经治疗后痊愈；2005年行阑尾切除术。", "hepatitis"),
    _historical("丙肝治愈后3年，HCV-RNA持续阴性。", "hcv"),
    _historical("20年前因药物性肝炎住院。", "toxic"),
    _historical("曾于2012年诊断自身免疫性肝炎，目前已停药缓解。", "aih"),
    _historical("既往史：\n高血压10年\n戊型肝炎（2008年，已愈）\n胆囊切除术后", "hev"),
    _historical("既往酒精性肝炎，戒酒5年。", "alcoholic"),
    _historical("乙肝核心抗体阳性、表面抗体阳性、表面抗原阴性，提示既往乙肝病毒感染，现已恢复。", "hbv"),
    _historical("患者大学期间得过乙肝，后表面抗原转阴。", "hbv"),
    _historical("肝炎史：10余年前患过，已愈。", "hepatitis"),
    _historical("孕期曾出现肝炎，产后恢复正常。", "hepatitis"),
    _historical("肝癌切除术后3年，未见复发。", "hcc"),
    _family("其母患慢性乙型肝炎，其父体健。", "hbv"),
    _family("家族史：父亲有乙肝，母亲有糖尿病。", "hbv"),
    _family("家族史：\n父亲：丙型肝炎\n母亲：体健\n兄弟姐妹：无特殊", "hcv"),
    _family("母亲为乙肝病毒携带者，患儿出生后已接种乙肝免疫球蛋白。", "hbv"),
    _family("其兄死于重型肝炎。", "hepatitis"),
    _family("配偶HBsAg阳性。", "hbv"),
    _family("患者姐姐确诊自身免疫性肝炎，本人无不适。", "aih"),
    _family("有肝癌家族史，其舅舅患乙肝。", "hcc", "hbv"),
    _family("祖父因酒精性肝炎去世。", "alcoholic"),
    _family("同住室友近期患甲肝，患者目前无症状。", "hav"),
    _family("家族史\n祖母患丙肝，已故。\n外公肝硬化。\n否认家族遗传病史。", "hcv", "cirrhosis"),
    _family("其父及叔父均有乙肝病史，本人乙肝表面抗原阴性。", "hbv"),
    _family("孕母丙肝抗体阳性，足月顺产。", "hcv"),
    _unstated("已按计划完成乙肝疫苗接种。"),
    _unstated("接种疫苗后乙肝表面抗体阳性。"),
    _unstated("建议完善乙肝五项、丙肝抗体检查。"),
    _unstated("肝功能轻度异常，肝内胆管结石。"),
    _unstated("曾接触乙肝患者，要求筛查。"),
    _unstated("肝右叶囊肿，肝血管瘤，脾不大。"),
    _unstated("就诊于肝炎门诊，咨询疫苗事宜。"),
    _unstated("肝炎系列结果未回。"),
    _unstated("嘱患者避免饮酒，预防酒精性肝炎。"),
    _unstated("异烟肼可引起药物性肝炎，用药期间需监测肝功能。"),
]

FRESH = FRESH_ENGLISH + FRESH_CHINESE

LATER_ENGLISH = [
    _affirmed(
        "Sonographic starry-sky pattern in a febrile traveler; serum IgM anti-HEV positive. Diagnosis: acute hepatitis E.", VIRAL, "hev"
    ),
    _affirmed("HBsAg positive for more than six months with ALT twice normal: chronic hepatitis B, treatment to be started.", VIRAL, "hbv"),
    _affirmed("Pathology, liver core: moderately active hepatitis, no granulomas, no iron overload.", OTHER, "hepatitis"),
    _affirmed("Admitted with alcohol-associated hepatitis and hepatic encephalopathy; cultures negative.", ALCOHOLIC, "alcoholic"),
    _affirmed("ASSESSMENT:\n# Hepatitis C, genotype 3, viral load 800,000 - start glecaprevir/pibrentasvir\n# HTN - stable", VIRAL, "hcv"),
    _affirmed("Her autoimmune hepatitis flared after azathioprine was stopped; no encephalopathy.", AUTOIMMUNE, "aih"),
    _negated("The hepatitis B surface antigen and hepatitis C antibody tests came back negative.", None, "hbv", "hcv"),
    _negated("Normal liver parenchyma with no histologic features of hepatitis or steatosis.", NO, "hepatitis", "steatosis"),
    _negated("Pt denies any hx of hepatitis, tattoos, or transfusions.", NO, "hepatitis"),
    _negated("Autoimmune hepatitis has been excluded by biopsy.", None, "aih"),
    _negated("There are no findings to suggest steatohepatitis on this MR examination.", None, "steato"),
    _uncertain("Gallbladder wall edema, nonspecific, which could reflect hepatitis or hypoalbuminemia.", "hepatitis"),
    _uncertain("Drug-induced hepatitis versus autoimmune hepatitis; recommend biopsy.", "toxic", "aih"),
    _uncertain("We were unable to rule out hepatitis B reactivation at this point.", "hbv"),
    _uncertain("Elevated AST:ALT ratio raises the possibility of alcoholic hepatitis.", "alcoholic"),
    _uncertain("Workup for hepatitis is ongoing.", "hepatitis"),
    _historical("Past medical history:\n1. Hepatitis A, 1994\n2. Tonsillectomy\n\nMedications: none", "hav"),
    _historical("He had hepatitis B twenty years ago and has since cleared the virus.", "hbv"),
    _historical("Hepatitis C, cured with ledipasvir/sofosbuvir in 2016.", "hcv"),
    _historical("Medical history is remarkable for viral hepatitis during childhood.", "viral"),
    _historical("Prior episodes of alcoholic hepatitis, none since he stopped drinking in 2014.", "alcoholic"),
    _family("Family History: negative for diabetes; positive for autoimmune hepatitis (aunt).", "aih"),
    _family("Mom is HBsAg positive.", "hbv"),
    _family("The patient's roommate was diagnosed with hepatitis A last week.", "hav"),
    _family(
        "FAMILY HISTORY:\n\n- Father: hepatitis C, cirrhosis\n- Mother: breast cancer\n\nSOCIAL HISTORY:\n- denies alcohol",
        "hcv",
        "cirrhosis",
    ),
    _family("Paternal grandmother had chronic hepatitis B and hepatocellular carcinoma.", "hbv", "hcc"),
    _unstated("Hepatitis B vaccination: three doses documented."),
    _unstated("Please obtain hepatitis B and C serologies prior to rituximab."),
    _unstated("Handout on hepatitis C was given."),
    _unstated("Hepatic steatosis is not the subject of this note; hepatitis A vaccine due next visit."),
]

LATER_CHINESE = [
    _affirmed("入院诊断：慢性乙型肝炎急性发作；高血压2级。", VIRAL, "hbv"),
    _affirmed("患者3天前出现乏力、纳差，查甲肝抗体IgM阳性，诊断为急性甲型肝炎。", VIRAL, "hav"),
    _affirmed("病理诊断：慢性肝炎，轻度，G2S1，未见肉芽肿。", OTHER, "hepatitis"),
    _affirmed("因自身免疫性肝炎长期服用泼尼松，无发热、咳嗽。", AUTOIMMUNE, "aih"),
    _affirmed("丙肝抗体阳性，HCV-RNA阳性，肝内未见占位。", VIRAL, "hcv"),
    _negated("乙肝两对半检查全部阴性。", None, "hbv"),
    _negated("家属及本人均否认肝炎病史。", NO, "hepatitis"),
    _negated("肝实质回声均匀，未见急慢性肝炎表现。", NO, "hepatitis"),
    _negated("结合抗体阴性及病理结果，可除外自身免疫性肝炎。", None, "aih"),
    _negated("无药物性肝炎表现，无肝硬化。", None, "toxic", "cirrhosis"),
    _negated("HBV-DNA低于检测下限，HBsAg阴性，丙肝抗体阴性。", None, "hbv", "hcv"),
    _uncertain("肝脏弥漫性回声改变，考虑慢性肝炎，请结合实验室检查。", "hepatitis"),
    _uncertain("转氨酶升高原因：药物性肝炎？脂肪性肝炎？", "toxic", "steato"),
    _uncertain("不排除酒精性肝炎可能。", "alcoholic"),
    _uncertain("目前尚无法确定是否为戊型肝炎。", "hev"),
    _uncertain("初步诊断：发热待查，病毒性肝炎可能性大。", "viral"),
    _historical("既往史：2003年患戊型肝炎，已痊愈，否认结核病史。", "hev"),
    _historical("5年前有药物性肝炎病史，停药后好转。", "toxic"),
    _historical("患者小学时患过甲肝。", "hav"),
    _historical("既往史\n1.丙型肝炎，2018年已治愈\n2.阑尾炎\n个人史\n无烟酒嗜好", "hcv"),
    _historical("肝炎病史20年，已康复，近期复查肝功能正常。", "hepatitis"),
    _family("家族史：\n\n母亲患乙肝\n哥哥患肝癌\n余无特殊", "hbv", "hcc"),
    _family("患儿母亲孕期HBsAg阳性、HBeAg阳性。", "hbv"),
    _family("父亲2010年死于乙肝后肝硬化。", "hbv", "cirrhosis"),
    _family("其妻患有丙型肝炎，一直在治疗。", "hcv"),
    _family("有自身免疫性肝炎家族史。", "aih"),
    _unstated("拟行化疗，先查乙肝五项。"),
    _unstated("与乙肝患者共用餐具后前来咨询。"),
    _unstated("已接种甲肝疫苗和乙肝疫苗。"),
    _unstated("向家长讲解乙肝母婴传播的知识。"),
]

LATER = LATER_ENGLISH + LATER_CHINESE
