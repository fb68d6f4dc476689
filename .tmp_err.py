import numpy as np, torch
from privfl.shelves import SHELVES
from privfl.federation.transforms import Shared
from privfl.seeding import Seed
from privfl.vectors import Layout
d=1024
g=np.random.default_rng(0)
v=torch.from_numpy(np.exp(g.normal(size=d))*g.choice([-1,1],d)).double()
lay=Layout(("w",),((32,32),))
for kind,kw in [("random_k",dict(share=.1)),("random_k",dict(share=.65)),("top_k",dict(share=.1)),("qsgd",dict(levels=1)),("qsgd",dict(levels=15)),("scaled_sign",{}),("eden",{}),("eden",dict(scale="least_error")),("eden",dict(bits=2)),("eden",dict(bits=4)),("power_sgd",dict(rank=4)),("count_sketch",dict(share=.2))]:
    errs=[];mean=0
    for i in range(400):
        s=Seed(i)
        t=SHELVES["transform"].find(kind).model_validate(dict(kind=kind,**kw, **({"hash_seed":i} if kind=="count_sketch" else {})))
        sh=Shared(lay,t.init(lay,s/"i"),s/"pub")
        r=t.restore(t.compress(v,sh,s/"own"),sh)
        errs.append(float((r-v).square().sum()/v.square().sum())); mean=mean+r/400
    print(kind,kw,np.mean(errs),np.std(errs)/20, "mean off",float((mean-v).norm()/v.norm()), t.message_bytes(lay))
print("sign exact",1-float(v.abs().sum()**2/d/v.square().sum()),"qsgd1", float(v.abs().sum()/v.norm())-1)
