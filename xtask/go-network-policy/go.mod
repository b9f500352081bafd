module github.com/fairlead/fairlead/xtask/go-network-policy

go 1.26.8

require sigs.k8s.io/network-policy-api v0.3.0 // indirect
