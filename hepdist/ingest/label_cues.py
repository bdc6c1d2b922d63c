"""Words that turn a finding in a report: negation, uncertainty, history, family, in Chinese and English; no disease is named here.

Cues are of NegEx (Chapman et al., 2001, J Biomed Inform 34:301) and ConText (Harkema et al., 2009, J Biomed Inform 42:839), with
Chinese ones of the same kinds added. A text is read in NFKC form with the characters of `simplified` replaced, in lower or upper
case; patterns are RE2, the longest match counts, and \\b sees ASCII words only, so it also stands between a Chinese and a Latin letter.
"""

from __future__ import annotations

from typing import Literal

from hepdist.spec import Spec

Polarity = Literal["affirmed", "negated", "uncertain", "historical", "family"]

# The traditional characters that occur in cues and in the names of findings.
_SIMPLIFIED = str.maketrans(
    "無見發現陰陽認懷顯確診斷據證據歷親屬遺傳藥過進檢驗體應慮個況報變異減損傷區開關與後對標誌結節細腫脹癥為並沒從還會來實測處於兒時復陳舊癒",
    "无见发现阴阳认怀显确诊断据证据历亲属遗传药过进检验体应虑个况报变异减损伤区开关与后对标志结节细肿胀症为并没从还会来实测处于儿时复陈旧愈",
)


def simplified(text: str) -> str:
    """The text with those traditional characters in their simplified form; its length stays."""
    return text.translate(_SIMPLIFIED)


class Cues(Spec):
    """Patterns by what they do. `before`: to what follows them in the sentence; `after`: to what precedes them."""

    negated_before: tuple[str, ...] = ()
    """Reaches to the end of the clause: 'no evidence of', '未见'."""
    negated_before_list: tuple[str, ...] = ()
    """The same, and through commas: 'denies', '否认'."""
    negated_after: tuple[str, ...] = ()
    """'was ruled out', '阴性'."""
    negated_after_list: tuple[str, ...] = ()
    """The same, and back through commas: 'are all negative', '均阴性'."""
    uncertain_before: tuple[str, ...] = ()
    uncertain_after: tuple[str, ...] = ()
    historical_before: tuple[str, ...] = ()
    historical_after: tuple[str, ...] = ()
    family_before: tuple[str, ...] = ()
    """Someone else has it: a relative, a contact."""
    family_after: tuple[str, ...] = ()
    affirmed_before: tuple[str, ...] = ()
    """Begins a new statement, which ends a negation or a history: 'consistent with', '可见', 'now'."""
    affirmed_after: tuple[str, ...] = ()
    """'positive', '阳性'."""
    contrast: tuple[str, ...] = ()
    """Ends the reach of everything on either side: 'but', '但'."""
    patient: tuple[str, ...] = ()
    """Speaks of the patient again, after a relative."""
    neutral: tuple[str, ...] = ()
    """Looks like a cue and is none: 'no change', '未见明显变化'."""
    alternative: tuple[str, ...] = ()
    """Shows that commas before it part the items of one list: 'no ascites, masses or cysts'."""


_ADJECTIVES = r"(?:明显|明确|确切|显著|典型|异常|任何|有|可疑|具体|的){0,3}"
_NOUNS = (
    r"any|definite|convincing|obvious|clear|specific|ct|mr|mri|imaging|sonographic|ultrasound|radiographic|radiologic(?:al)?|clinical|"
    r"histologic(?:al)?|serologic(?:al)?|laboratory|focal|new|other|hepatic|liver|intrahepatic|enhancing|mass(?:es)?|nodules?|foci|focus|evidence|findings?|signs?|features?|changes?|abnormalit(?:y|ies)|lesions?|appearance|data"
)
_OPEN = r"(?:不能|未能|不可|无法|难以|尚不能|尚未|尚未能|仍不能|并不能)(?:完全|绝对|彻底|明确|肯定)?"
"""What leaves open what follows it: an exclusion."""
RELATIVES = (
    r"mothers?|fathers?|parents?|brothers?|sisters?|siblings?|sons?|daughters?|children|child's|aunts?|uncles?|cousins?|nephews?|nieces?|"
    r"grand(?:mother|father|parent|son|daughter)s?|relatives?|husband|wife|spouse|partner|twin|maternal|paternal|mom|dad|"
    r"family members?|household (?:members?|contacts?)|roommates?|housemates?|classmates?|colleagues?|co-?workers?|neighbou?rs?|friends?"
)
RELATIVES_ZH = (
    r"家族|家人|家属|父亲|母亲|父母|其父|其母|爸爸|妈妈|兄弟|姐妹|兄妹|姐弟|哥哥|弟弟|姐姐|妹妹|其(?:兄|弟|姐|妹|子|女|夫|妻)|儿子|女儿|子女|"
    r"孕母|生母|生父|养母|其(?:祖|外祖|叔|伯|姑|姨|舅|堂|表)(?:父|母|兄|弟|姐|妹)?|配偶|丈夫|妻子|爱人|祖父|祖母|外祖父|外祖母|爷爷|奶奶|外公|外婆|叔叔|伯父|舅舅|姑姑|姨妈|亲属|一级亲属|同事|室友|密切接触者"
)

BUILT_IN = Cues(
    negated_before=(
        r"\b(?:no|without|absence of|absent|lack(?:s|ing|ed)?|nor|neither|never|cannot see|fails? to (?:show|reveal|demonstrate))\b",
        r"\bw/o\b|\bnon-",
        r"\b(?:not|isn't|wasn't|aren't|weren't|doesn't|didn't|don't|hasn't|haven't|hadn't)\b",
        rf"\b(?:no|not|without|nothing)\b(?: (?:{_NOUNS})){{0,4}} (?:to |that )?(?:suggest(?:s|ed|ing|ive of)?|indicat(?:e|es|ed|ing|ive of)|"
        r"suspicious for|suspicion (?:of|for)|concern(?:ing)? for|compatible with|consistent with|in keeping with|typical (?:of|for)|shown?|"
        r"shows|possible|known(?: to have)?|diagnostic of|currently|active|ongoing|has|have|is|was|are|were|confirmed|detectable|positive|present)\b",
        r"\b(?:does|do|did) not (?:support|have|show|meet|demonstrate|reveal|suggest|indicate|appear to have)",
        r"\b(?:exclud(?:es|ed|ing)|rul(?:es|ed|ing) out|argues? against|against|evidence against|free of|unremarkable for|inconsistent with)\b",
        r"\bno (?:definite|convincing|obvious|clear|radiographic|sonographic|imaging|clinical|serologic(?:al)?) ",
        rf"(?:未|没|没有|无)(?:见|发现|提示|显示|及|示|探及|检出|查出|查见|观察到|出现|患过?|得过|有过?|合并|伴){_ADJECTIVES}",
        rf"(?:无|没有|未|沒有|均无|皆无){_ADJECTIVES}",
        r"(?:不支持|不符合|不考虑|不像|不是|不伴|不具备|不存在|并非|并不是|而非|非|缺乏|不提示|不诊断|未达到)",
        r"(?:可以?|已经?|基本|现已|能够|足以|已基本|可基本)(?:排除|除外)(?:了)?",
        r"(?:排除|除外)了",
    ),
    negated_before_list=(
        r"\b(?:denie[sd]|deny|denying|(?:(?:is|are|was|were|tests?|tested) )?(?:all |both )?negative for|free from)\b",
        r"\b(?:no|without|negative|denies|denied|never had)(?: any| known| prior| previous| past| significant| personal| reported)* "
        r"(?:history|hx|h/o)(?: of)?\b",
        r"\bno (?:known|prior|previous|past) (?:history|hx) of\b",
        r"(?:否认|均?否认有?|否认曾?患)",
    ),
    negated_after=(
        r"\b(?:negative|non-?reactive|undetectable|undetected|absent|neg)\b",
        r"\b(?:(?:is|was|are|were|has|have) )?(?:not|never)(?: been)? (?:seen|present|found|identified|detected|demonstrated|visuali[sz]ed|evident|observed|apparent|noted|supported|diagnosed)\b",
        r"\b(?:is|was|are|were|been|be|now|both|all|effectively)? ?(?:ruled out|excluded)\b",
        r"\b(?:is|was|has been|can be) (?:ruled out|excluded|refuted)\b",
        r"\bbelow (?:the )?(?:limits? of detection|detection limits?|lod)\b|(?:低于|小于)(?:最低)?检测?(?:下限|限)",
        r"-free\b|\b(?:is|are|was|were) lacking\b|\bnot (?:a consideration|considered|a concern)\b",
        r"\((?:-|–|—|−|neg)\)",
        r"(?:阴性|转阴|已排除|可排除|已除外|可除外|被排除|不成立|依据不足|证据不足)",
        r"(?:未见|未检出|未发现|不支持|不存在|不明显|排除)(?:[,。;\s]|$)",
        r"后(?:诊断|考虑|确诊)",
    ),
    negated_after_list=(
        r"\b(?:are|were|all|both)(?: all| both)? (?:negative|non-?reactive|absent|excluded|ruled out|not (?:seen|present|found|detected))\b",
        r"\b(?:have|has) (?:all|both)? ?been (?:excluded|ruled out)\b",
        r"(?:均|都|皆|全部?|两者)(?:为|呈|已)?(?:阴性?|排除|除外|未见|未检出|未发现|\(-\))",
    ),
    uncertain_before=(
        r"\b(?:possib(?:le|ly)|probabl[ey]|likely|suspect(?:ed|s|ing)?|suspicious for|suspicion (?:of|for)|suggest(?:s|ed|ing|ive of)?|"
        r"questionable|presum(?:ed|ptive|ably)|apparent|equivocal|perhaps|maybe|potential(?:ly)?|borderline|favou?r(?:s|ed|ing)?)\b",
        r"\b(?:may|might|could|would|can)(?: also| well| not)* (?:be|have|represent|reflect|indicate|suggest|relate to|be related to|be due to)\b",
        r"\b(?:can|could|may|might|would)(?: also| rarely| sometimes| occasionally| potentially)* "
        r"(?:cause|lead to|induce|trigger|result in|progress to|develop|precipitate)\b",
        r"\b(?:(?:possibility|likelihood|question|suspicion|concern|probability) (?:of|for)|rais(?:es?|ed|ing) (?:the |a |some )?"
        r"(?:possibility|question|suspicion|concern))\b",
        r"\b(?:prevent(?:s|ed|ing|ion of)?|prophylaxis|in case of|(?:patient|health) education|"
        r"(?:educat(?:ed|ion)|counsell?(?:ed|ing)|teaching|information|leaflet|handout) (?:on|about|regarding|concerning))\b",
        r"\b(?:concern(?:s|ing|ed)?(?: for| about)?|worrisome for|differential(?: diagnosis)?(?: includes?| of|:)?|ddx|versus|vs\.?|query|"
        r"evaluat(?:e|ion) for|assess(?:ment)? for|screen(?:ed|ing)? for|work-?up for|at risk (?:of|for)|risk (?:of|for)|consider(?:ing)?|"
        r"if|whether|worry for|question of|q/o)\b",
        r"\b(?:(?:to )?rule[- ]?out|r/o|exclude|to exclude|cannot exclude|can ?not (?:be )?exclude|can't exclude|cannot rule out|"
        r"not (?:been )?(?:ruled? out|exclude)|does not (?:exclude|rule out)|without excluding)\b",
        r"(?:^|[\s(,:])\?\s*",
        r"(?:可能|可能为|可能是|可能系|疑|疑似|可疑|怀疑|疑为|考虑|考虑为|倾向于?|似|似为|似有|拟诊|拟|不除外|不能除外|不排除|不能排除|"
        r"未除外|未排除|待排除?|待除外|警惕|不确定|是否|有无|若|如为|如果|鉴别|高危|风险)",
        r"(?:(?:需要?|应当?|须|建议|进一步|以便?|待|请)?(?:排除|除外)|后考虑)",
        r"可能(?:无|不是|并非|没有)",
        rf"{_OPEN}(?:排除|除外)",
        r"(?:或为|或系|或是|抑或|也许|大概)",
        r"(?:可|可能|能|会|易|常)(?:引起|引发|导致|诱发|造成|发展为|进展为|并发)|预防|防止|防治|以防|宣教|健康教育|讲解|科普|宣传",
    ),
    uncertain_after=(
        r"\b(?:(?:is|are|was|were|remains?|be) )?(?:possible|probable|likely|suspected|questioned|questionable|equivocal|indeterminate|pending|"
        r"uncertain|unclear|unlikely|favou?red|considered|presumed|suggested)\b",
        r"\b(?:(?:is|was|are|were|has been|have been) )?(?:less|not|felt to be) (?:likely|certain|confirmed|definite)\b",
        r"\b(?:can ?not|can't|could not|not|not be|not been|never been)(?: entirely| completely| definitely| fully)?"
        r" (?:be |been )?(?:entirely |completely |definitely )?(?:excluded|ruled out)\b",
        r"\b(?:(?:should|must|needs? to|to) be) (?:excluded|ruled out|considered)\b",
        r"\b(?:is|remains) (?:a|in the|on the|one) (?:\w+ )?(?:consideration|possibility|differential|concern)\b",
        r"\b(?:versus|vs\.?)",
        r"\s*\?\s*",
        r"\((?:\?|±|\+/-)\)",
        r"(?:可能|可能性大|可能性较大|可能性小|可能性不大|可能性|待排除?|待查|待除外|待定|待确诊|待证实|不除外|不能除外|不排除|不能排除|"
        r"未排除|未除外|需排除|需除外|应排除|疑诊|可疑|不确定|不明确|未定|待回报|结果未回|未确诊|弱阳性|灰区|临界|难以(?:鉴别|区分|明确)|(?:无法|不易)(?:鉴别|区分)|鉴别困难)",
        rf"{_OPEN}(?:排除|除外)",
        r"(?:传播|防治|相关|预防)?的?知识",
    ),
    historical_before=(
        r"\b(?:(?:history|hx|h/o|hist)(?: (?:is )?(?:significant|notable|positive))?(?: of| for|:)?|past medical history|pmhx?|past history|"
        r"status[- ]post|s/p|previous(?:ly)?|prior|past|remote|former(?:ly)?|childhood|no longer (?:has|have)|recovered from|cured of|treated for)\b",
        r"(?:既往史?|(?:病史|过去史):|曾|曾经|曾患|曾有|以前|此前|早年|幼时|幼年|童年|儿时|小时候|陈旧性?)",
        r"\d+ ?(?:余|多)?(?:年|月|个月)余?前",
        r"(?:得|患|生|有)过",
        r"\b(?:consistent with|compatible with|in keeping with|suggests?|indicates?|of|an?|the) (?:fully |spontaneously )?(?:resolved|cleared|healed)\b",
    ),
    historical_after=(
        r"\b(?:resolved|cured|cleared|eradicated|(?:years?|months?|decades?) ago|in the past|as a (?:child|teenager|young adult)|in (?:childhood|adolescence|infancy)|"
        r"previously|in remission|in (?:19|20)\d\d|by history)\b",
        r"(?:病史|史|既往史|已?治愈后?|已愈|痊愈后?|愈后)",
        r"(?:切除|根治|移植|消融)术后|(?:现|均|都|目前)?已(?:完全|基本)?(?:恢复|康复|缓解)|恢复正常",
    ),
    family_before=(
        r"\b(?:family (?:history|hx)|fhx?|fam\.? h(?:x|istory)|familial)(?: (?:is )?(?:significant|notable|positive))?(?: of| for|:)?",
        rf"\b(?:{RELATIVES})\b",
        r"\b(?:exposure to|exposed to|contact with|donor)\b",
        rf"(?:家族史|家族性|{RELATIVES_ZH}|接触)",
    ),
    family_after=(
        rf"\b(?:in|of|from) (?:[\w']+ ){{0,2}}(?:{RELATIVES})\b",
        rf"\((?:{RELATIVES})\)",
        r"\b(?:family history|runs in the family)\b",
        r"(?:家族史|家族病史|家族遗传史|接触史|密切接触)",
        r"(?:患者|病人|携带者|感染者)(?:密切)?(?:共用|共同|同住|同居|接触)",
    ),
    affirmed_before=(
        r"\b(?:consistent with|compatible with|in keeping with|shows?|showed|showing|demonstrates?|demonstrated|reveals?|revealed|diagnosed with|"
        r"diagnostic of|prov(?:es|ed)|establish(?:es|ed)|meets? (?:the )?criteria for|has|have|is|are|was|were|there (?:is|are)|confirms?|confirmed|now|currently|today|active|ongoing|"
        r"presents? with|admitted (?:with|for)|positive for|suffers? from|suffering from|remains?|proven|because|while|secondary to|due to|which|who)\b",
        r"(?:符合|提示|可见|见|示|诊断|诊断为|确诊|确诊为|证实|现|现有|目前|此次|本次|今|有|患|患有|表现为|呈|合并|伴|并发|为|系|由于|因|仅)",
    ),
    affirmed_after=(
        r"\b(?:positive|(?:re-?)?reactive|detected|detectable|confirmed|present|seen|noted|diagnosed|pos)\b",
        r"\((?:\+|pos)+\)",
        r"(?:阳性|确诊|明确|活动期|检出)",
    ),
    contrast=(
        r"\b(?:but|however|although|though|whereas|except(?: for)?|apart from|aside from|other than|besides|nevertheless|instead|"
        r"in (?:a|this|the) (?:known )?(?:\w+ )?(?:patient|man|woman|case|setting) (?:with|of)|(?:patient|man|woman|male|female) (?:with|who has))\b",
        r"(?:但|但是|然而|不过|而是|却|虽然|尽管|仅见|只见|除此之外|另见|后诊断|后确诊)",
    ),
    patient=(
        r"\b(?:(?:the|this|our|index) (?:patient|pt)|patient himself|patient herself|proband)\b",
        r"(?:患者|病人|本人|受检者|患儿|自身|先证者)",
    ),
    neutral=(
        r"\b(?:no|not|without)(?: (?:significant|interval|definite|appreciable|substantial|further|marked|obvious)){0,2} "
        r"(?:changes?|increase|decrease|improvement|progression|worsening) (?:in|from|since|compared)\b",
        r"\b(?:no doubt|not only|not (?:yet )?resolved|has not (?:yet )?resolved|not improved|not just|gram negative|unchanged)\b",
        r"\b(?:(?:clinical|present|brief|patient) history:?|history of (?:the )?present(?:ing)? illness)",
        r"\b(?:compared (?:with|to)|comparison with|since|from|versus|vs\.?) (?:the |a )?(?:prior|previous|old|past)(?: (?:\w+ )?"
        r"(?:exam(?:ination)?|study|ct|mri?|ultrasound|film|image|imaging|scan)s?)?\b",
        r"\b(?:prior|previous|old|past) (?:\w+ )?(?:exam(?:ination)?|study|ct|mri?|ultrasound|film|image|imaging|scan|report)s?\b",
        r"\bpast (?:\w+ )?(?:days?|weeks?)\b",
        r"(?:未见|无|没有)(?:明显|显著)?(?:变化|改变|好转|加重|进展)",
        r"(?:不仅|无论|不但|历史|无疑|自身免疫|未治疗|未经治疗|未愈|未治愈|非常|除非|现象|无症状|无痛|无黄疸|无创|无法|无关|因为|因此|认为|作为|行为)",
    ),
    alternative=(r"\b(?:or|nor)\b", r"(?:或|及|和|以及)"),
)
